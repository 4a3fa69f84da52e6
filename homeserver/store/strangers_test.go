package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// crowd makes a room with so many joined users of another server, and as many who left or are local and are called alike.
func crowd(t *testing.T, db *store.DB, room store.RoomNID, joinRule string, count int) {
	t.Helper()
	version, _ := event.VersionOf(event.DefaultVersion)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		r := &store.Room{NID: room, ID: id.RoomID(fmt.Sprintf("!room%d:here", room)), Version: version}
		summary := store.Summary{JoinRule: joinRule, JoinedMembers: int64(count)}
		err := errors.Join(tx.Rooms.Insert(r, store.Head{}), tx.Rooms.SetSummary(room, summary))
		for i := range count {
			if err != nil {
				return err
			}
			set := func(name, membership string, local bool) error {
				user := id.UserID(fmt.Sprintf("@crowd%d%05d%s", room, i, name))
				return tx.Memberships.Set(store.Membership{Room: room, User: user, Membership: membership, Position: stream.Position(3 * i)}, "", local)
			}
			err = errors.Join(set(":there", "join", false), set("b:there", "leave", false), set(":here", "join", true))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStrangersArePlanned reads users of other servers in large rooms: no more rows are read than may be, whatever the
// database knows of its tables.
func TestStrangersArePlanned(t *testing.T) {
	const limit, searcher = 40, id.UserID("@crowd100000:here")
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		analyze := statistics(t, address)
		crowd(t, db, 1, "invite", 1500)
		crowd(t, db, 2, "public", 1500)
		crowd(t, db, 3, "invite", 5)
		for room := range store.RoomNID(600) {
			crowd(t, db, 10+room, "public", 0)
		}
		reads := map[string]relationRead{
			"memberships_elsewhere": {most: limit + 3, read: func(tx *store.Tx) error {
				got, more, err := tx.Profiles.StrangersIn([]store.RoomNID{3, 1, 2}, limit)
				if of := map[store.RoomNID]int{}; err == nil {
					for _, s := range got {
						of[s.Room]++
					}
					if of[3] != 5 || of[1] < limit/3 || of[2] < limit/3 || len(got) > limit || !more {
						err = fmt.Errorf("of the rooms are %v, more %v", of, more)
					}
				}
				return err
			}},
			"memberships_strangers": {most: limit, read: func(tx *store.Tx) error {
				got, more, err := tx.Profiles.StrangersBy(searcher, "@crowd", limit)
				if err == nil && (len(got) != limit || !more) {
					err = fmt.Errorf("%d by ID, more %v", len(got), more)
				}
				return err
			}},
			"rooms_open": {most: limit, read: func(tx *store.Tx) error {
				own, open, err := tx.Profiles.KnownRooms(searcher, limit, limit)
				if err == nil && (fmt.Sprint(own) != "[1]" || len(open) != limit || open[limit-1] != 2) {
					err = fmt.Errorf("rooms are %v and %v", own, open)
				}
				return err
			}},
		}
		for _, known := range []string{"nothing", "all"} {
			if known == "all" {
				analyze()
				db = storetest.Open(t, address)
			}
			for index, c := range reads {
				err := db.View(t.Context(), func(tx *store.Tx) error {
					plans, err := tx.Explain(func() error { return c.read(tx) })
					for _, plan := range plans {
						if index == "rooms_open" && (known == "nothing" || !strings.Contains(plan.Query, "world_readable")) {
							continue // what is small is read, and the rooms that the user is in are, all of them
						}
						if wrong := bounded(plan, index, c.most); wrong != "" {
							t.Errorf("if %s is known: %s\n%s", known, wrong, strings.Join(plan.Steps, "\n"))
						}
					}
					return err
				})
				if err != nil {
					t.Errorf("by %s, if %s is known: %v", index, known, err)
				}
			}
		}
		err := db.View(t.Context(), func(tx *store.Tx) error {
			for user, want := range map[id.UserID]int{"@crowd100001:here": 0, "@crowd300001:here": 5, "@else:here": 0} {
				got, more, err := tx.Profiles.StrangersBy(user, "@crowd3", limit)
				if len(got) != want || err != nil || more {
					t.Errorf("%s finds %d by ID, want %d: %v", user, len(got), want, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestPublishedRoomsArePlanned: a page of the public room list reads its own rooms, wherever it begins.
func TestPublishedRoomsArePlanned(t *testing.T) {
	const limit = 20
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		for room := range store.RoomNID(1500) {
			crowd(t, db, 10+room, "public", 0)
		}
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for room := range store.RoomNID(1500) {
				member := store.Membership{Room: 10 + room, User: "@alice:here", Membership: "join"}
				if err := errors.Join(tx.Rooms.SetPublished(10+room, room%2 == 0), tx.Memberships.Set(member, "", true)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		statistics(t, address)()
		db = storetest.Open(t, address)
		err = db.View(t.Context(), func(tx *store.Tx) error {
			for _, from := range []store.ListPlace{store.ListBegin, {Room: 700}} {
				for _, back := range []bool{false, from != store.ListBegin} {
					plans, err := tx.Explain(func() error {
						got, err := tx.Rooms.Published(from, back, limit)
						if err == nil && len(got) != limit {
							err = fmt.Errorf("%d rooms", len(got))
						}
						return err
					})
					if err != nil {
						return err
					}
					wrong := bounded(plans[0], "rooms_published", limit)
					if steps := strings.Join(plans[0].Steps, "\n"); wrong == "" && strings.Contains(steps, "hashed") {
						wrong = "hashed"
					}
					if wrong != "" {
						t.Errorf("from %v, back %v: %s\n%s", from, back, wrong, strings.Join(plans[0].Steps, "\n"))
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
