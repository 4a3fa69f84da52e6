package media

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

func TestPlacesAreShared(t *testing.T) {
	var p places
	gone, stop := context.WithCancel(t.Context())
	stop()
	enter := func(user id.UserID, server id.ServerName) (context.Context, func()) {
		t.Helper()
		ctx, leave, err := p.enter(t.Context(), user, server)
		if err != nil {
			t.Fatal(err)
		}
		return ctx, leave
	}
	var inside []context.Context
	for i := range placesInAll {
		ctx, _ := enter(id.UserID(fmt.Sprint("@u", i/placesForUser)), id.ServerName(fmt.Sprint("s", i/placesForServer)))
		inside = append(inside, ctx)
	}
	for what, who := range map[string][2]string{"a full user": {"@u0", "other"}, "a full server": {"@other", "s0"}} {
		if _, _, err := p.enter(gone, id.UserID(who[0]), id.ServerName(who[1])); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, leave := enter("@new", "new")
	if !errors.Is(context.Cause(inside[0]), errCrowded) || inside[1].Err() != nil {
		t.Errorf("the oldest of the fullest: %v, the next: %v", context.Cause(inside[0]), context.Cause(inside[1]))
	}
	leave()
	if _, leave := enter("@new", "new"); inside[1].Err() != nil {
		t.Error("a free place is not taken")
	} else {
		leave()
	}
	// Who waits gets the place that is given back.
	_, leave = enter("@last", "s0")
	entered := make(chan error, 1)
	go func() {
		_, _, err := p.enter(t.Context(), "@waits", "s0")
		entered <- err
	}()
	leave()
	if err := <-entered; err != nil {
		t.Error(err)
	}
}
