package media

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// asked is what a job gave to one who wanted it.
type asked struct {
	value int
	err   error
}

func ask(ctx context.Context, o *jobs[int], who string, work func(context.Context) (int, error)) <-chan asked {
	result := make(chan asked, 1)
	go func() {
		value, err := o.do(ctx, "job", who, "", work)
		result <- asked{value, err}
	}()
	synctest.Wait()
	return result
}

// What several want is done once, in the place of whoever's turn comes first.
func TestJobsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := jobs[int]{places: places{most: 2, each: 1, queue: 1}}
		full := take(t, &o.places, "@a", "")
		done, n := make(chan struct{}), 0
		work := func(context.Context) (int, error) { n++; <-done; return n, nil }
		impatient, leave := context.WithCancel(t.Context())
		first := ask(impatient, &o, "@a", work) // has to wait for the other one of hers
		second := ask(t.Context(), &o, "@b", work)
		third := ask(t.Context(), &o, "@b", work)
		if n != 1 {
			t.Fatalf("the job was begun %d times", n)
		}
		leave()
		if got := <-first; !errors.Is(got.err, context.Canceled) {
			t.Errorf("who went away got %v", got)
		}
		fourth := ask(t.Context(), &o, "@c", work) // it is the same job still
		close(done)
		for _, result := range []<-chan asked{second, third, fourth} {
			if got := <-result; got != (asked{1, nil}) {
				t.Errorf("got %v", got)
			}
		}
		o.places.leave(full)
		if len(o.open)+len(o.places.held)+len(o.places.line) != 0 {
			t.Errorf("left are %v", o.open)
		}
	})
}

func TestUnwantedJobsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := jobs[int]{places: places{most: 1, each: 1, queue: 1}}
		var inside context.Context
		done := make(chan struct{})
		work := func(ctx context.Context) (int, error) { inside = ctx; <-done; return 1, ctx.Err() }
		full := take(t, &o.places, "@a", "")
		ctx, leave := context.WithCancel(t.Context())
		waits := ask(ctx, &o, "@b", work)
		leave()
		if got := <-waits; !errors.Is(got.err, context.Canceled) {
			t.Errorf("got %v", got)
		}
		o.places.leave(full)
		if synctest.Wait(); inside != nil {
			t.Fatal("what nobody waits for was begun")
		}
		for _, goesOn := range []bool{false, true} {
			o.goesOn = goesOn
			ctx, leave := context.WithCancel(t.Context())
			left, stays := ask(ctx, &o, "@b", work), ask(t.Context(), &o, "@c", work)
			leave()
			<-left
			if synctest.Wait(); inside.Err() != nil {
				t.Error("what somebody waits for has ended")
			}
			done <- struct{}{}
			if got := <-stays; got != (asked{1, nil}) {
				t.Errorf("got %v", got)
			}
			ctx, leave = context.WithCancel(t.Context())
			left = ask(ctx, &o, "@b", work)
			leave()
			<-left
			if synctest.Wait(); (inside.Err() == nil) != goesOn {
				t.Errorf("goes on: %v, but what nobody waits for: %v", goesOn, inside.Err())
			}
			done <- struct{}{}
			synctest.Wait()
		}
	})
}

// Who loses a place is told; others who wanted the same have it done in their own.
func TestLostJobsAreDoneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := jobs[int]{places: places{most: 2, each: 2, queue: 1, losable: true}}
		n := 0
		work := func(ctx context.Context) (int, error) {
			if n++; n > 1 {
				return n, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		loses := ask(t.Context(), &o, "@a", work)
		shares := ask(t.Context(), &o, "@b", work)
		take(t, &o.places, "@a", "")
		o.places.leave(take(t, &o.places, "@new", ""))
		if got := <-loses; !errors.Is(got.err, ErrCrowded) {
			t.Errorf("who lost the place got %v", got)
		}
		if got := <-shares; got != (asked{2, nil}) {
			t.Errorf("who wanted the same got %v", got)
		}
	})
}

// TestPanicsEndTheirJobOnly: what strangers' files make of a decoder is an error for who waits, and no place is lost.
func TestPanicsEndTheirJobOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := jobs[int]{places: places{most: 1, each: 1, queue: 1}}
		if got := <-ask(t.Context(), &o, "@a", func(context.Context) (int, error) { panic("a hostile image") }); got.err == nil {
			t.Error("no error of a panic")
		}
		synctest.Wait()
		if got := <-ask(t.Context(), &o, "@b", func(context.Context) (int, error) { return 7, nil }); got != (asked{7, nil}) {
			t.Errorf("the next one got %v", got)
		}
	})
}
