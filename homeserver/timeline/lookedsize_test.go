package timeline_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

func (w *world) around(roomID id.RoomID, term string, c timeline.SearchContext) []timeline.Result {
	w.Helper()
	most := 100
	found, err := w.Search(context.Background(), reader("alice"), timeline.Search{
		Term: term, Recent: true, Context: &c, Filter: &filter.RoomEvents{Events: filter.Events{Limit: &most}, Rooms: []id.RoomID{roomID}},
	})
	w.must(err)
	return found.Results
}

// TestContextsOfAllResultsAreBounded: what is looked at for what stands around results is counted for all of them together, and
// those before leave the ones behind their share.
func TestContextsOfAllResultsAreBounded(t *testing.T) {
	each(t, func(w *world) {
		const results, unseen, size = 20, 200, 60_000
		roomID := w.create("shared")
		w.member(roomID, "mallory", "mallory", "join")
		w.ignore("alice", "mallory")
		w.say(roomID, "alice", "oldest")
		for range unseen {
			w.say(roomID, "mallory", strings.Repeat("x", size))
		}
		for i := range results {
			w.say(roomID, "alice", fmt.Sprint("needle ", i))
		}
		// Before each result are the other ones, and only behind all that is ignored the oldest.
		reached, near := 0, 0
		for _, r := range w.around(roomID, "needle", timeline.SearchContext{Before: 100, After: 100}) {
			if strings.Contains(w.bodies(r.Context.Before), "oldest") {
				reached++
			}
			near += len(r.Context.Before) + len(r.Context.After)
		}
		if reached > 3 || near < results*(results-1) {
			w.Errorf("%d results have looked at %d bytes each; %d events are around them", reached, unseen*size, near)
		}
		if r := w.around(roomID, "19", timeline.SearchContext{Before: 100}); len(r) != 1 || !strings.Contains(w.bodies(r[0].Context.Before), "oldest") {
			w.Errorf("one result alone shows what is far behind: %v", len(r))
		}
	})
}

// TestProfilesOfResultsAreBounded: the member events of all who stand around results are counted as well.
func TestProfilesOfResultsAreBounded(t *testing.T) {
	each(t, func(w *world) {
		const results, users, size = 100, 12, 60_000
		large, small := w.create("shared"), w.create("shared")
		join := func(roomID id.RoomID, who, reason string) {
			w.must(w.rooms.SetMembership(context.Background(), room.Change{
				Room: roomID, Sender: user(who), Target: user(who), Membership: "join", Reason: reason,
			}))
		}
		for i := range users {
			join(large, fmt.Sprint("user", i), strings.Repeat("x", size))
			join(small, fmt.Sprint("user", i), "")
		}
		for i := range results {
			w.say(large, fmt.Sprint("user", i%users), "needle")
			w.say(small, fmt.Sprint("user", i%users), "needle")
		}
		count := func(roomID id.RoomID) (n int) {
			for _, r := range w.around(roomID, "needle", timeline.SearchContext{Before: users, After: users, Profiles: true}) {
				n += len(r.Context.Profiles)
			}
			return n
		}
		if n := count(small); n < results*(users-1) {
			w.Errorf("%d profiles are shown with small events", n)
		}
		if n := count(large); n*size > 33<<20 || n < results {
			w.Errorf("%d profiles are shown, of %d bytes each", n, size)
		}
	})
}
