package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// forkMany lets users of the other server come in a chain that follows an event, and show other names in forks of its end.
func (f *forker) forkMany(prev id.EventID) {
	f.Helper()
	member := func(prev id.EventID, i int, name string) *event.Event {
		user := fmt.Sprintf("@u%d:two.test", i)
		content := json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":%q}`, name))
		ev := f.forge(prev, event.Proto{Type: event.TypeMember, StateKey: &user, Sender: id.UserID(user), Content: content})
		f.deliver(ev)
		return ev
	}
	for i := range 14 {
		prev = member(prev, i, "").ID
	}
	for i := range 12 {
		member(prev, i, "forked")
	}
}

func (f *forker) levels(users map[string]int) json.RawMessage {
	if v, _ := event.VersionOf(f.version()); !v.PrivilegedCreators {
		users["@alice:one.test"] = 100
	}
	content, err := json.Marshal(map[string]any{"users": users})
	if err != nil {
		f.Fatal(err)
	}
	return content
}

func (f *forker) ends() (n int) {
	f.Helper()
	f.view(func(tx *store.Tx, r *store.Room) error {
		further, err := tx.Rooms.Ends(r.NID)
		if err != nil {
			return err
		}
		head, err := tx.Rooms.Head(r.NID)
		n = len(further) + len(head.Extremities)
		return err
	})
	return n
}

// eachForked tests with a room in which carol, of this server, is since the event whose ID is given.
func eachForked(t *testing.T, test func(t *testing.T, f *forker, old id.EventID)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		for _, v := range []id.RoomVersion{"10", "11", "12"} {
			f := fork(t, one, two, v)
			f.set(event.TypePowerLevels, "", string(f.levels(map[string]int{"@bob:two.test": 90})))
			old := f.last()
			if err := one.Join(context.Background(), room.Change{Room: f.room, Sender: user("carol"), Target: user("carol"), Membership: "join"}); err != nil {
				t.Fatal(err)
			}
			test(t, f, old)
		}
	})
}

func (f *forker) sayAs(sender id.UserID, text string) {
	f.Helper()
	_, err := f.us.Send(context.Background(), room.Message{Room: f.room, Sender: sender, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
	if err != nil {
		f.Errorf("version %s, %s says %q: %v", f.version(), sender, text, err)
	}
}

// TestForksFromBeforeAUserCame: a server without power lets many states follow what was before a user of ours came and got
// power. The user keeps speech and power, others come and are invited, who is banned stays that, and the ends are tied.
func TestForksFromBeforeAUserCame(t *testing.T) {
	eachForked(t, func(t *testing.T, f *forker, old id.EventID) {
		ctx := context.Background()
		f.set(event.TypePowerLevels, "", string(f.levels(map[string]int{"@bob:two.test": 90, "@carol:one.test": 80})))
		f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
		f.forkMany(old)
		if n := f.ends(); n != 13 {
			t.Fatalf("%d ends", n)
		}
		f.sayAs(user("carol"), "still here")
		for _, c := range []room.Change{
			{Sender: user("carol"), Target: "@u1:two.test", Membership: "ban"},
			{Sender: user("dave"), Target: user("dave"), Membership: "join"},
			{Sender: user("carol"), Target: user("erin"), Membership: "invite"},
			{Sender: user("erin"), Target: user("erin"), Membership: "join"},
		} {
			f.forkMany(old)
			c.Room = f.room
			if err := f.us.SetMembership(ctx, c); err != nil {
				t.Errorf("version %s, %s of %s by %s: %v", f.version(), c.Membership, c.Target, c.Sender, err)
			}
		}
		for i := range 12 {
			f.sayAs(user("dave"), fmt.Sprint(i))
		}
		if n := f.ends(); n != 1 {
			t.Errorf("version %s: %d ends are left", f.version(), n)
		}
		for _, who := range []id.UserID{"@mallory:two.test", "@u1:two.test"} {
			if m, _, err := f.us.MembershipOf(ctx, f.room, who); err != nil || m != "ban" {
				t.Errorf("version %s: the membership of %s is %q, %v", f.version(), who, m, err)
			}
		}
		f.check()
	})
}

// TestForksOfWhichNoneHasAll: the levels that hold are on another branch than the one on which a user came.
func TestForksOfWhichNoneHasAll(t *testing.T) {
	eachForked(t, func(t *testing.T, f *forker, old id.EventID) {
		none := ""
		theirs := f.forge(old, event.Proto{Type: event.TypePowerLevels, StateKey: &none, Sender: "@bob:two.test", Content: f.levels(map[string]int{"@bob:two.test": 70})})
		f.deliver(theirs)
		f.forkMany(theirs.ID)
		for i := range 6 {
			f.sayAs(user("carol"), fmt.Sprint(i))
		}
		if n := f.ends(); n != 1 {
			t.Errorf("version %s: %d ends are left", f.version(), n)
		}
		f.check()
	})
}
