package load

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

const (
	each = 64 << 20
	all  = 512 << 20
)

func TestStage(t *testing.T) {
	s := &Stage{Each: each, All: all}
	one, two, three := s.Charge("a", nil), s.Charge("a", nil), s.Charge("b", nil)
	for i, step := range []struct {
		c    *Charge
		cost int64
		ok   bool
	}{
		{one, Free, true}, {one, each, true}, {two, Free, true}, {two, 2 * Free, true}, {two, 2*Free + 1, false},
		{three, all - each, true}, {three, all - each + Free, true}, {three, all - each + Free + 1, false},
		{one, 2 * Free, true},
	} {
		if err := step.c.Grow(step.cost); (err == nil) != step.ok {
			t.Errorf("step %d: %v", i, err)
		}
	}
	for _, c := range []*Charge{one, two, two, three} {
		c.End()
	}
	if s.Held() != 0 || len(s.by) != 0 {
		t.Errorf("in the end there are %d bytes, by %v", s.all, s.by)
	}
	if alone := s.Charge("a", nil); alone.Grow(all+Free) != nil || alone.Grow(all+Free+1) == nil {
		t.Error("a single request may take up all, and no more")
	}
}

// TestTheFullestArrivesLast: what one address sends does not keep others from sending.
func TestTheFullestArrivesLast(t *testing.T) {
	s := &Stage{Each: each, All: all}
	dropped := map[*Charge]bool{}
	arrive := func(who string) *Charge {
		c := s.Charge(who, nil)
		c.Losable(func() { dropped[c] = true })
		return c
	}
	var full []*Charge
	for i := range all / each {
		c := arrive(fmt.Sprint("full", i))
		if err := c.Grow(each + Free); err != nil {
			t.Fatal(err)
		}
		full = append(full, c)
	}
	full[0].Losable(nil)
	small := arrive("small")
	if err := small.Grow(1 << 20); err != nil {
		t.Fatalf("somebody else: %v", err)
	}
	if len(dropped) != 1 || dropped[small] || dropped[full[0]] {
		t.Errorf("%d were dropped", len(dropped))
	}
	for _, c := range full {
		if err := c.Grow(each + Free); (err != nil) != dropped[c] || c.Over() != dropped[c] {
			t.Errorf("dropped %v: %v", dropped[c], err)
		}
	}
	if err := arrive("as full").Grow(each + Free); err == nil {
		t.Error("who would be as full drops others")
	}
	for _, c := range append(full, small) {
		c.End()
	}
	if s.Held() != 0 || len(s.by) != 0 || len(s.open) != 0 {
		t.Errorf("in the end there are %d bytes, by %v", s.all, s.by)
	}
}

func TestOneAnswersForACharge(t *testing.T) {
	c := new(Stage).Charge("", nil)
	if c.Claimed() || !c.Claim() || c.Claim() || !c.Claimed() {
		t.Error("not exactly one")
	}
}

func TestRead(t *testing.T) {
	s := &Stage{Each: each, All: 4 * Free}
	for size, want := range map[int]error{0: nil, Free: nil, 5 * Free: nil, 5*Free + 1: ErrBusy, 6 * Free: ErrBusy} {
		c := s.Charge("a", nil)
		data, err := Read(strings.NewReader(strings.Repeat("x", size)), 7*Free, c, func(time.Time) {})
		if !errors.Is(err, want) || err == nil && len(data) != size {
			t.Errorf("%d bytes: %d, %v", size, len(data), err)
		}
		c.End()
	}
	for size, want := range map[int]error{100: nil, 101: ErrTooLarge} {
		if _, err := Read(strings.NewReader(strings.Repeat("x", size)), 100, s.Charge("a", nil), func(time.Time) {}); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	broken := io.MultiReader(strings.NewReader("x"), failing{})
	if _, err := Read(broken, 100, s.Charge("a", nil), func(time.Time) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that breaks off: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
