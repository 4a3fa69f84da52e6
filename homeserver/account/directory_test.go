package account_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// seat makes a room with members, without any event.
func seat(t *testing.T, db *store.DB, room store.RoomNID, joinRule string, users ...id.UserID) {
	t.Helper()
	version, _ := event.VersionOf(event.DefaultVersion)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		r := &store.Room{NID: room, ID: id.RoomID("!room" + string(rune('a'+room))), Version: version}
		if err := errors.Join(tx.Rooms.Insert(r, store.Head{}), tx.Rooms.SetSummary(room, store.Summary{JoinRule: joinRule})); err != nil {
			return err
		}
		for _, u := range users {
			if err := tx.Memberships.Set(store.Membership{Room: room, User: u, Membership: "join"}, "", u.Server() == "example.org"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSearch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice, bob, eve := register(t, s, "user-alice", false).User, register(t, s, "user-bob", false).User, register(t, s, "user-eve", false).User
		if err := s.SetProfileField(ctx, alice, "displayname", []byte(`"Älice 100%"`)); err != nil {
			t.Fatal(err)
		}
		seat(t, db, 1, "public", alice)
		seat(t, db, 2, "invite", alice, bob, "@user-carol:remote")
		find := func(searcher id.UserID, term string, want ...id.UserID) {
			t.Helper()
			found, limited, err := s.Search(ctx, searcher, term, 10)
			if err != nil || limited || len(found) != len(want) {
				t.Errorf("%s looks for %q and finds %v, %v, %v; want %v", searcher, term, found, limited, err, want)
				return
			}
			for i := range want {
				if found[i].User != want[i] {
					t.Errorf("%s looks for %q and finds %v, want %v", searcher, term, found, want)
				}
				if want[i] == alice && found[i].DisplayName != "Älice 100%" {
					t.Errorf("alice's name is %q", found[i].DisplayName)
				}
			}
		}
		find(eve, "älice", alice)
		find(eve, "a\u0308lice", alice) // composed of two
		find(eve, "100%", alice)
		find(eve, "10_%")
		find(eve, "@USER-", alice)
		find(eve, "@user-eve", eve)
		find(eve, " ")
		find(bob, "user-", bob, alice, "@user-carol:remote")
		find(eve, "eve", eve)
		if found, limited, err := s.Search(ctx, bob, "user", 1); err != nil || !limited || len(found) != 1 {
			t.Errorf("got %v, %v, %v", found, limited, err)
		}
		if err := s.Deactivate(ctx, alice, false); err != nil {
			t.Fatal(err)
		}
		find(eve, "älice")
	})
}

// TestSearchOrder: who is called just so is not behind those with longer names, and other servers' users are found by
// what they are called in a room.
func TestSearchOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newService(db, nil)
		var users []id.UserID
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for i := range 14 {
				u := id.UserID(fmt.Sprintf("@u%02d:example.org", i))
				name := fmt.Sprintf("anna %02d", i)
				switch i {
				case 12:
					name = "hanna"
				case 13:
					name = "anna"
				}
				users = append(users, u)
				_, err := tx.Users.Insert(store.User{ID: u})
				if err := errors.Join(err, tx.Profiles.Set(u, "displayname", []byte(`"`+name+`"`), name)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		seat(t, db, 1, "public", users...)
		names := func(searcher id.UserID, term string) (out []string) {
			t.Helper()
			found, _, err := s.Search(t.Context(), searcher, term, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				out = append(out, f.DisplayName)
			}
			return out
		}
		if got := names("@x:example.org", "Anna"); len(got) != 10 || got[0] != "anna" || got[1] != "anna 00" {
			t.Errorf("anna is not the first of %q", got)
		}
		if got := names("@x:example.org", "u13"); len(got) != 1 || got[0] != "anna" {
			t.Errorf("by ID: %q", got)
		}
		if got := names("@x:example.org", "hanna"); len(got) != 1 {
			t.Errorf("by another name: %q", got)
		}
	})
}
