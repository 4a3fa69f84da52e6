package stream

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

func TestToken(t *testing.T) {
	for _, want := range []Token{
		{}, {Position: 12}, {Position: 12, Volatile: 34}, {Position: -5}, {Position: 12, Epoch: "EPOCH"}, {Position: 12, Volatile: 34, Epoch: "EPOCH"},
		{Position: -5, Epoch: "EPOCH"}, {Position: 12, Owed: []int64{7}}, {Position: math.MaxInt64, Volatile: math.MaxInt64, Epoch: "ABCDEFGHIJ", Owed: []int64{1, 2, 3, math.MaxInt64}},
	} {
		if got, err := ParseToken(want.String()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v became %v, %v", want, got, err)
		}
	}
	for _, bad := range []string{"", "s", "12", "s+1", "s01", "s1_", "s1_x", "s1_0", "s1_0_", "s1__E", "s1_E", "s1_0_E_", "s1_0_E_x", "s1_0_E_1.", "s1_0_E_1.2.3.4.5", "s1_0_E_01", "s1_2_" + strings.Repeat("E", maxToken), "t1", "s99999999999999999999"} {
		if got, err := ParseToken(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}

func TestHubRemembersAndForgets(t *testing.T) {
	h := NewHub(10)
	for p := Position(11); p <= 10+3*remembered; p++ {
		h.Publish(p, []Change{{Position: p, Kind: Event}})
	}
	if h.Current() != 10+3*remembered {
		t.Errorf("current is %d", h.Current())
	}
	if _, ok := h.Since(10, h.Current()); ok {
		t.Error("what was forgotten was given as empty")
	}
	since := h.Current() - remembered
	got, ok := h.Since(since, h.Current()-1)
	if !ok || len(got) != remembered-1 || got[0].Position != since+1 {
		t.Errorf("got %d changes, %v", len(got), ok)
	}
	if got, ok := h.Since(h.Current(), h.Current()); !ok || len(got) != 0 {
		t.Errorf("got %d changes behind the end, %v", len(got), ok)
	}
}

// TestHubKnowsItsGaps has a second process take positions of which this one is not told.
func TestHubKnowsItsGaps(t *testing.T) {
	h := NewHub(0)
	h.Publish(1, []Change{{Position: 1, Kind: Event}})
	if _, ok := h.Since(1, 2); ok {
		t.Error("a position that was not published was given as empty")
	}
	h.Publish(4, []Change{{Position: 3, Kind: Event}, {Position: 4, Kind: Event}})
	for since := range Position(2) {
		if got, ok := h.Since(since, 4); ok {
			t.Errorf("behind %d: %d changes across a gap", since, len(got))
		}
	}
	if got, ok := h.Since(2, 4); !ok || len(got) != 2 {
		t.Errorf("behind the gap: %d changes, %v", len(got), ok)
	}
}

func TestHubWakesWhoIsConcerned(t *testing.T) {
	h := NewHub(0)
	alice, bob, outward := h.Subscribe("@alice:h"), h.Subscribe("@bob:h"), h.Subscribe("")
	h.Publish(1, []Change{{Position: 1, Kind: Event, Wake: []id.UserID{"@alice:h"}}})
	h.Publish(2, []Change{{Position: 2, Kind: Event, Wake: []id.UserID{"@alice:h"}}})
	woken := func(w *Waiter) bool {
		select {
		case <-w.C:
			return true
		default:
			return false
		}
	}
	if !woken(alice) || woken(alice) {
		t.Error("alice has to be woken once for all that happened")
	}
	if woken(bob) || woken(outward) {
		t.Error("somebody was woken by what concerns only alice")
	}
	h.Publish(3, []Change{{Position: 3, Kind: Event, Servers: []id.ServerName{"other"}}})
	if woken(alice) || !woken(outward) {
		t.Error("what another server has to be told woke alice, or not those who deliver it")
	}
	bob.Close()
	h.Wake("@bob:h", "@alice:h")
	if woken(bob) || !woken(alice) {
		t.Error("a closed waiter was woken, or an open one was not")
	}
	alice.Close()
	outward.Close()
	if len(h.waiters) != 0 || len(h.outward) != 0 {
		t.Error("closed waiters are kept")
	}
}
