package account_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// joinRooms has a user be in so many rooms.
func joinRooms(t *testing.T, db *store.DB, user id.UserID, n int) {
	t.Helper()
	v, _ := event.VersionOf("11")
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		for i := range n {
			r := &store.Room{NID: store.RoomNID(i + 1), ID: id.RoomID(fmt.Sprintf("!%04d:example.org", i)), Version: v}
			if err := tx.Rooms.Insert(r, store.Head{}); err != nil {
				return err
			}
			if err := tx.Memberships.Set(store.Membership{Room: r.NID, User: user, Membership: "join"}, "", true); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestProfilesAreShownAtAPace changes a name again and again: rooms are shown no more than a user may send, the others are not
// forgotten, by no later process either, and each is shown the name that is the newest then.
func TestProfilesAreShownAtAPace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const rooms, rate = 25, 10
		names, written := map[id.RoomID]string{}, 0
		size := 100
		process := func() *account.Service {
			return newService(db, func(o *account.Options) {
				o.ProfileRate = account.Rate{Count: rate, Per: time.Hour}
				o.ProfileChanged = func(_ context.Context, room id.RoomID, shown account.Shown) (int, error) {
					name := string(shown.Profile["displayname"])
					if names[room] == name {
						return 0, nil
					}
					names[room] = name
					written++
					return size, nil
				}
			})
		}
		s := process()
		alice := register(t, s, "alice", false).User
		joinRooms(t, db, alice, rooms)
		rename := func(s *account.Service, name string) {
			if err := s.SetProfileField(t.Context(), alice, "displayname", json.RawMessage(name)); err != nil {
				t.Fatal(err)
			}
			runOnce(t, s)
		}
		for i := range 5 {
			rename(s, fmt.Sprintf(`"name %d"`, i))
		}
		if written != rate {
			t.Errorf("five changes wrote %d events, where %d may be sent", written, rate)
		}
		for range 3 { // as after a restart, or as time goes by
			hasten(t, s, 1, 0)
			s = process()
			runOnce(t, s)
		}
		for room, name := range names {
			if name != `"name 4"` {
				t.Errorf("%s is shown %s", room, name)
			}
		}
		hasten(t, s, 0, 0)
		if len(names) != rooms || written != rate+rooms {
			t.Errorf("%d rooms are shown the profile with %d events", len(names), written)
		}

		s, size, written = process(), 60_000, 0
		rename(s, `"large"`)
		if written != 1 {
			t.Errorf("%d events of 60 KB, where one counts as more than may be sent", written)
		}
	})
}

// TestAPassGoesOnWithTheNewestProfile changes a name while the former one is being shown, step by step: the pass goes on where it
// was, and then another one begins.
func TestAPassGoesOnWithTheNewestProfile(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const rooms = 3
		var s *account.Service
		var alice id.UserID
		var mu sync.Mutex
		var seen []string
		s = newService(db, func(o *account.Options) {
			o.ProfileRate = account.Rate{Count: 1, Per: 5 * time.Millisecond}
			o.ProfileChanged = func(ctx context.Context, room id.RoomID, shown account.Shown) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				if seen = append(seen, string(room)[4:5]+string(shown.Profile["displayname"])); len(seen) == 1 {
					return 1, s.SetProfileField(ctx, alice, "displayname", json.RawMessage(`"b"`))
				}
				return 1, nil
			}
		})
		alice = register(t, s, "alice", false).User
		joinRooms(t, db, alice, rooms)
		if err := s.SetProfileField(t.Context(), alice, "displayname", json.RawMessage(`"a"`)); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		waittest.Until(t, "the second pass is over", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen) >= 2*rooms
		})
		stop()
		running.Wait()
		// A pass that was slow enough to be asked again goes on with the newer name in its second room.
		if want := []string{`0"a"`, `1"b"`, `2"b"`, `0"b"`, `1"b"`, `2"b"`}; !slices.Equal(seen, want) && seen[1] != `1"a"` {
			t.Errorf("the rooms were shown %v", seen)
		}
		hasten(t, s, 0, 0)
	})
}
