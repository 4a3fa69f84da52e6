package media

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/securecomm/securecomm/homeserver/id"
)

func newClaim() *claim { return &claim{taken: make(chan struct{})} }

// take enters places, which must be possible without waiting.
func take(t *testing.T, p *places, who string, host id.ServerName) *holder {
	t.Helper()
	c, gone := newClaim(), stopped()
	if got, err := p.enter(gone, c, who, host); !got || err != nil {
		t.Fatalf("%s has to wait for a place with %s: %v", who, host, err)
	}
	return c.place
}

// stopped is a context with which nobody waits.
func stopped() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	return ctx
}

func TestPlacesAreShared(t *testing.T) {
	p := places{most: 8, each: 4, host: 6, queue: 1, losable: true}
	refused := func(who string, host id.ServerName) {
		t.Helper()
		if got, err := p.enter(stopped(), newClaim(), who, host); got || !errors.Is(err, context.Canceled) {
			t.Errorf("%s with %s: %v, %v", who, host, got, err)
		}
	}
	var held []*holder
	for i := range p.most { // four of each of two users, and six with the first host
		held = append(held, take(t, &p, fmt.Sprint("@u", i/p.each), id.ServerName(fmt.Sprint("s", i/p.host))))
		if i == p.each-1 {
			refused("@u0", "other") // though there are places
		}
	}
	lost := func(want ...int) {
		t.Helper()
		for i, h := range held {
			if got := errors.Is(context.Cause(h.inside), ErrCrowded); got != slices.Contains(want, i) {
				t.Errorf("whether %d lost its place: %v", i, got)
			}
		}
	}
	refused("@u0", "other")
	// The oldest of who has the most goes, also if the host has all that it may, but then one with that host.
	take(t, &p, "@new", "s0")
	lost(0)
	take(t, &p, "@new", "s0")
	lost(0, 4)
	refused("@new", "s0") // would have as many afterwards as they
	p.leave(held[1])
	take(t, &p, "@new", "s0")
	lost(0, 4)
}

// A host that never answers must not keep everybody's places, though each has but one.
func TestHostsLeaveRoom(t *testing.T) {
	p := places{most: 6, each: 6, host: 3, queue: 1, losable: true}
	var held []*holder
	for i, host := range []id.ServerName{"two", "two", "full", "full", "full", "one"} {
		held = append(held, take(t, &p, fmt.Sprint("@u", i), host))
		if p.with["full"] < p.host {
			continue
		}
		if got, _ := p.enter(stopped(), newClaim(), "@new", "full"); got { // the first time there is a place left
			t.Errorf("a full host gave a place beside %d", len(held))
		}
	}
	take(t, &p, "@new", "good")
	for i, h := range held {
		if lost := errors.Is(context.Cause(h.inside), ErrCrowded); lost != (i == 2) { // the oldest with the fullest host
			t.Errorf("whether %s lost a place with %s: %v", h.who, h.host, lost)
		}
	}
}

// A place with a full host is one that somebody else with that host loses, whoever has most in all.
func TestFullHostsGiveTheirOwn(t *testing.T) {
	p := places{most: 6, each: 4, host: 2, queue: 1, losable: true}
	var held []*holder
	for i := range 5 {
		who, host := "@a", id.ServerName("other"+fmt.Sprint(i))
		if i >= 3 {
			who, host = "@b", "s0"
		}
		held = append(held, take(t, &p, who, host))
	}
	take(t, &p, "@new", "s0")
	for i, h := range held {
		if lost := errors.Is(context.Cause(h.inside), ErrCrowded); lost != (i == 3) {
			t.Errorf("whether %s lost a place with %s: %v", h.who, h.host, lost)
		}
	}
}

func TestPlacesGoInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := places{most: 2, each: 2, queue: 3}
		running := []*holder{take(t, &p, "@a", ""), take(t, &p, "@a", "")}
		order := make(chan *holder)
		wait := func(who string) {
			go func() {
				c := newClaim()
				if _, err := p.enter(t.Context(), c, who, ""); err != nil {
					t.Errorf("%s: %v", who, err)
				}
				order <- c.place
			}()
			synctest.Wait()
		}
		for _, who := range []string{"@a", "@a", "@a", "@b", "@b", "@c", "two.test"} {
			wait(who)
		}
		if got, err := p.enter(t.Context(), newClaim(), "@a", ""); got || !errors.Is(err, ErrCrowded) {
			t.Errorf("a fourth one waits: %v, %v", got, err)
		}
		if running[0].inside.Err() != nil || running[1].inside.Err() != nil {
			t.Error("a place was lost that cannot be")
		}
		var got []string
		for range 7 {
			p.leave(running[0])
			next := <-order
			running = append(running[1:], next)
			got = append(got, next.who)
		}
		// One of each, and who has one already comes after who has none.
		if want := []string{"@b", "@a", "@c", "two.test", "@b", "@a", "@a"}; !slices.Equal(got, want) {
			t.Errorf("served were %v", got)
		}
		p.leave(running[0])
		p.leave(running[1])
		if len(p.by)+len(p.with)+len(p.waiting)+len(p.line)+len(p.held) != 0 {
			t.Errorf("left are %+v", &p)
		}
	})
}
