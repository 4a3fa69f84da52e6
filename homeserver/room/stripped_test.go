package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// shown are the bytes and the types of what a user is shown of a room.
func shown(t *testing.T, db *store.DB, roomID id.RoomID, user id.UserID, brief bool) (int, string) {
	t.Helper()
	var raw []byte
	err := db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		list, err := tx.Memberships.Shown(user, []store.RoomNID{r.NID}, brief)
		raw = list[r.NID]
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var events []struct{ Type string }
	if err := json.Unmarshal(raw, &events); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	var types []string
	for _, ev := range events {
		types = append(types, strings.TrimPrefix(ev.Type, "m.room."))
	}
	return len(raw), strings.Join(types, " ")
}

// TestStrippedStateIsBounded: what does not fit is left out, the largest first. The invite itself is always there.
func TestStrippedStateIsBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		large := func(n int) json.RawMessage {
			return fmt.Appendf(nil, `{"algorithm":"m.megolm.v1.aes-sha2","topic":%q}`, strings.Repeat("x", n))
		}
		roomID := create(t, e, room.Creation{Preset: "private_chat", Name: "Plans", Invite: []id.UserID{user("bob")}, InitialState: []room.StateEvent{
			{Type: "m.room.topic", Content: large(60 << 10)}, {Type: "m.room.encryption", Content: large(12 << 10)}, {Type: "m.room.avatar", Content: large(6 << 10)},
		}})
		invite := room.Change{Room: roomID, Sender: user("alice"), Target: user("carol"), Membership: "invite", Reason: strings.Repeat("x", 50<<10)}
		if err := e.SetMembership(context.Background(), invite); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"bob", "carol"} {
			n, types := shown(t, db, roomID, user(name), false)
			if n > 16<<10 || types != "name join_rules member create avatar member" {
				t.Errorf("%s is shown %d bytes: %s", name, n, types)
			}
			n, types = shown(t, db, roomID, user(name), true)
			if n > 2<<10 || types != "name member member" {
				t.Errorf("%s is shown %d bytes in short: %s", name, n, types)
			}
		}
	})
}

// TestLocalInvitesAreBounded: nobody has many invites by one other user that are not answered, nor large ones.
func TestLocalInvitesAreBounded(t *testing.T) {
	const most, large = 50, 60 << 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e, ctx := engine(t, db), context.Background()
		invited := func(to string, count, size int) {
			err := db.Update(ctx, func(tx *store.Tx) error {
				for i := range count {
					m := store.Membership{Room: store.RoomNID(1<<40 + i), User: user(to), Membership: "invite", Asked: &store.Asked{Sender: user("alice"), Bytes: size, Stripped: []byte("[]")}}
					if err := tx.Memberships.Set(m, "", true); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		roomID := create(t, e, room.Creation{Preset: "public_chat", Invite: []id.UserID{user("dave")}})
		if err := e.Join(ctx, room.Change{Room: roomID, Sender: user("eve"), Target: user("eve")}); err != nil {
			t.Fatal(err)
		}
		invited("bob", most, 100)
		invited("carol", 512<<10/large+1, large)
		invited("dave", most-1, 100) // and to that room
		for _, to := range []string{"bob", "carol", "dave"} {
			_, err := e.Create(ctx, room.Creation{Creator: user("alice"), Invite: []id.UserID{user(to)}}, nil)
			if !errors.Is(err, room.ErrTooMany) {
				t.Errorf("a room with a further invite of %s is made: %v", to, err)
			}
			invite := room.Change{Room: roomID, Sender: user("alice"), Target: user(to), Membership: "invite"}
			if err := e.SetMembership(ctx, invite); to == "dave" && err != nil || to != "dave" && !errors.Is(err, room.ErrTooMany) {
				t.Errorf("a further invite of %s: %v", to, err)
			}
			if _, err := e.Create(ctx, room.Creation{Creator: user("eve"), Invite: []id.UserID{user(to)}}, nil); err != nil {
				t.Errorf("%s is invited by somebody else: %v", to, err)
			}
		}
	})
}

// TestRestrictedByManyRooms: a hundred rooms of a join rule let somebody in, no more.
func TestRestrictedByManyRooms(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		own := create(t, e, room.Creation{Preset: "public_chat"})
		if err := e.Join(context.Background(), room.Change{Room: own, Sender: user("bob"), Target: user("bob")}); err != nil {
			t.Fatal(err)
		}
		other := create(t, e, room.Creation{Preset: "public_chat"})
		for _, before := range []int{0, room.MaxAllowed - 1, room.MaxAllowed} {
			rooms := []string{}
			for range before {
				rooms = append(rooms, fmt.Sprintf(`{"type":"m.room_membership","room_id":%q}`, other))
			}
			rooms = append(rooms, fmt.Sprintf(`{"type":"m.room_membership","room_id":%q}`, own))
			rule := fmt.Appendf(nil, `{"join_rule":"restricted","allow":[%s]}`, strings.Join(rooms, ","))
			roomID := create(t, e, room.Creation{Preset: "public_chat", InitialState: []room.StateEvent{{Type: "m.room.join_rules", Content: rule}}})
			err := e.Join(context.Background(), room.Change{Room: roomID, Sender: user("bob"), Target: user("bob")})
			if before < room.MaxAllowed && err != nil || before == room.MaxAllowed && !errors.Is(err, room.ErrForbidden) {
				t.Errorf("behind %d other rooms: %v", before, err)
			}
			if err := e.Join(context.Background(), room.Change{Room: roomID, Sender: user("carol"), Target: user("carol")}); !errors.Is(err, room.ErrForbidden) {
				t.Errorf("who is in none of %d rooms joins: %v", len(rooms), err)
			}
		}
	})
}
