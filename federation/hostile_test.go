package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// forge builds an event on top of what another server has of a room, as a server would that keeps to no rule.
func (p *peer) forge(on *peer, roomID id.RoomID, proto event.Proto) *event.Event {
	p.Helper()
	r, head, state := on.stands(roomID)
	for _, x := range head.Extremities {
		proto.PrevEvents, proto.Depth = append(proto.PrevEvents, x.ID), max(proto.Depth, x.Depth+1)
	}
	wanted := map[event.StateKeyTuple]bool{
		{Type: event.TypePowerLevels}: true, {Type: event.TypeJoinRules}: proto.Type == event.TypeMember,
		{Type: event.TypeCreate}: !r.Version.NoCreateInAuthEvents, {Type: event.TypeMember, StateKey: string(proto.Sender)}: true,
		{Type: event.TypeMember, StateKey: string(alice)}: strings.Contains(string(proto.Content), "authorised"),
	}
	for _, ev := range state {
		if wanted[ev.Tuple()] {
			proto.AuthEvents = append(proto.AuthEvents, ev.ID)
		}
	}
	proto.RoomID, proto.OriginServerTS = roomID, time.Now().UnixMilli()
	ev, err := event.Build(r.Version, proto, p.name, p.key)
	if err != nil {
		p.Fatal(err)
	}
	return ev.Event()
}

// stands is where a room stands on this server.
func (p *peer) stands(roomID id.RoomID) (r *store.Room, head store.Head, state []*store.Event) {
	p.Helper()
	err := p.store.View(p.Context(), func(tx *store.Tx) (err error) {
		if r, err = tx.Rooms.ByID(roomID); err != nil {
			return err
		}
		if head, err = tx.Rooms.Head(r.NID); err != nil {
			return err
		}
		m, err := tx.States.Map(head.State)
		if err != nil {
			return err
		}
		state, err = tx.States.Events(m)
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	return r, head, state
}

func TestNobodyIsVouchedForUnasked(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for _, version := range []id.RoomVersion{"8", "10", "12"} {
			inside := us.create(room.Creation{Creator: alice, Preset: "private_chat"})
			rule, err := json.Marshal(map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": inside}}})
			if err != nil {
				t.Fatal(err)
			}
			roomID := us.create(room.Creation{Creator: alice, Preset: "private_chat", Version: version})
			us.set(roomID, alice, event.TypeJoinRules, string(rule))
			self := string(bob)
			join := them.forge(us, roomID, event.Proto{
				Type: event.TypeMember, StateKey: &self, Sender: bob,
				Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@alice:us.test"}`),
			})
			if _, err := them.remote.SendJoin(t.Context(), us.name, join); !errors.Is(err, room.ErrForbidden) {
				t.Errorf("version %s: a join that nobody asked for: %v", version, err)
			}
			if m, _, err := us.rooms.MembershipOf(t.Context(), roomID, bob); err != nil || m != "" {
				t.Errorf("version %s: the intruder's membership is %q, %v", version, m, err)
			}
		}
	})
}

// TestBarredServersDoNotInviteBack: the access list of a room that this server has left goes on to count here.
func TestBarredServersDoNotInviteBack(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for list, want := range map[string]int{`{"allow":["*"]}`: 200, `{"allow":["*"],"deny":["them.*"]}`: 403} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat", Version: "11"})
			us.set(roomID, alice, "m.room.server_acl", list)
			if err := us.rooms.Leave(t.Context(), room.Change{Room: roomID, Sender: alice, Target: alice}); err != nil {
				t.Fatal(err)
			}
			raw := them.invite(t, roomID, "11", string(alice))
			v, _ := event.VersionOf("11")
			ev, err := event.Parse(v, raw)
			if err != nil {
				t.Fatal(err)
			}
			uri := fmt.Sprintf("/_matrix/federation/v2/invite/%s/%s", roomID, ev.ID)
			body := fmt.Sprintf(`{"room_version":"11","invite_room_state":[],"event":%s}`, raw)
			if status, answer := them.request(us, "PUT", uri, body, nil); status != want {
				t.Errorf("with %s an invite is answered with %d %v", list, status, answer)
			}
		}
	})
}

func TestRoomsAreNotTiedTogether(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		var rooms []id.RoomID
		for range 2 {
			r := us.create(room.Creation{Creator: alice, Preset: "public_chat", Version: "10"})
			if err := them.join(r, bob, us.name); err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, r)
		}
		before := us.say(rooms[1], alice, "here")
		message := event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{"body":"x","msgtype":"m.text"}`)}
		byPrev, byAuth := message, message
		byPrev.PrevEvents = []id.EventID{before}
		byAuth.AuthEvents = []id.EventID{us.member(rooms[1], alice)}
		for _, p := range []event.Proto{byPrev, byAuth} {
			ev := them.forge(us, rooms[0], p)
			got := us.rooms.Receive(t.Context(), them.name, rooms[0], []json.RawMessage{ev.JSON})
			if len(got) != 1 || !errors.Is(got[0].Err, room.ErrForbidden) {
				t.Errorf("an event that names one of another room: %v", got)
			}
		}
		us.set(rooms[0], alice, "m.room.name", `{"name":"still hers"}`)
	})
}

func TestLargestDepth(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for version, depth := range map[id.RoomVersion]int64{"5": 1<<63 - 1, "12": canonicaljson.MaxInteger} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat", Version: version})
			if err := them.join(roomID, bob, us.name); err != nil {
				t.Fatal(err)
			}
			ev := them.forge(us, roomID, event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{}`), Depth: depth})
			if got := us.rooms.Receive(t.Context(), them.name, roomID, []json.RawMessage{ev.JSON}); got[0].Err != nil {
				t.Fatalf("version %s: %v", version, got[0].Err)
			}
			us.say(roomID, alice, "the room goes on")
			if err := them.join(roomID, "@carol:them.test", us.name); err != nil {
				t.Errorf("version %s: joining after it: %v", version, err)
			}
		}
	})
}

// invite forges an invite for alice to a room of its own server.
func (p *peer) invite(t *testing.T, roomID id.RoomID, version id.RoomVersion, name string) json.RawMessage {
	t.Helper()
	v, _ := event.VersionOf(version)
	ev, err := event.Build(v, event.Proto{
		Type: event.TypeMember, StateKey: &name, Sender: bob, RoomID: roomID, Content: json.RawMessage(`{"membership":"invite"}`),
		PrevEvents: []id.EventID{"$prev"}, AuthEvents: []id.EventID{"$auth"}, Depth: 5, OriginServerTS: time.Now().UnixMilli(),
	}, p.name, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return ev.Event().JSON
}

func TestHostileInvites(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := them.create(room.Creation{Creator: bob, Preset: "public_chat", Version: "11"})
		invited := func(version id.RoomVersion, raw json.RawMessage) error {
			_, err := us.rooms.ReceiveInvite(t.Context(), them.name, roomID, "", version, raw, nil)
			return err
		}
		for _, name := range []string{"@nobody:us.test", "no user id:us.test", "@A\x01:us.test", "@bob:them.test"} {
			if err := invited("11", them.invite(t, roomID, "11", name)); !errors.Is(err, room.ErrForbidden) && !errors.Is(err, room.ErrBadRequest) {
				t.Errorf("an invite for %q: %v", name, err)
			}
		}
		// The same invite again is the same invite.
		raw := them.invite(t, roomID, "10", string(alice))
		for range 2 {
			if err := invited("10", raw); err != nil {
				t.Fatal(err)
			}
		}
		if us.member(roomID, alice) == "" {
			t.Error("the invite is not here")
		}
		if err := us.rooms.Leave(t.Context(), room.Change{Room: roomID, Sender: alice}); err != nil {
			t.Errorf("declining: %v", err)
		}
		if err := invited("10", raw); err != nil {
			t.Fatal(err)
		}
		if m, _, err := us.rooms.MembershipOf(t.Context(), roomID, alice); err != nil || m != "leave" {
			t.Errorf("after a replay of the invite the membership is %q, %v", m, err)
		}
		// What was said of the room's version was not true, and bars nobody.
		if err := us.join(roomID, alice, them.name); err != nil {
			t.Errorf("joining: %v", err)
		}
		if err := invited("10", them.invite(t, roomID, "10", string(alice))); !errors.Is(err, room.ErrBadRequest) {
			t.Errorf("an invite with another version than the room's: %v", err)
		}
	})
}

func TestInvitesAreLimited(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := func(n int) id.RoomID { return id.RoomID(fmt.Sprintf("!r%d:them.test", n)) }
		invited := func(n int, user string) error {
			_, err := us.rooms.ReceiveInvite(t.Context(), them.name, roomID(n), "", "11", them.invite(t, roomID(n), "11", user), nil)
			return err
		}
		const most = 50
		for n := range most {
			if err := invited(n, string(alice)); err != nil {
				t.Fatalf("invite %d: %v", n, err)
			}
		}
		if err := invited(most, string(alice)); asFailure(err) == nil || asFailure(err).code != "M_LIMIT_EXCEEDED" {
			t.Errorf("one more: %v", err)
		}
		if err := invited(most, "@bob:us.test"); err != nil {
			t.Errorf("somebody else: %v", err)
		}
		if err := invited(0, string(alice)); err != nil {
			t.Errorf("once more to the same room: %v", err)
		}
		if err := us.rooms.Leave(t.Context(), room.Change{Room: roomID(1), Sender: alice}); err != nil {
			t.Fatal(err)
		}
		if err := invited(most, string(alice)); err != nil {
			t.Errorf("after one was declined: %v", err)
		}
	})
}

// TestInvitesOfAllServersAreLimited: who has many names of servers has no more invites for that.
func TestInvitesOfAllServersAreLimited(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		invited := func(roomID id.RoomID) error {
			_, err := us.rooms.ReceiveInvite(t.Context(), them.name, roomID, "", "11", them.invite(t, roomID, "11", string(alice)), nil)
			return err
		}
		v, _ := event.VersionOf("11")
		const most = 500
		err := us.store.Update(t.Context(), func(tx *store.Tx) error {
			for n := range most - 1 {
				raw := strings.ReplaceAll(string(them.invite(t, "!r:them.test", "11", string(alice))), "them.test", fmt.Sprintf("s%d.test", n))
				ev, err := event.Parse(v, json.RawMessage(raw))
				if err != nil {
					return err
				}
				m := store.Membership{Room: store.RoomNID(1<<40 + n), User: alice, Membership: "invite", Event: store.EventNID(1<<40 + n)}
				if err := tx.Rooms.Insert(&store.Room{NID: m.Room, ID: ev.RoomID, Version: v}, store.Head{}); err != nil {
					return err
				}
				if err := tx.Events.InsertAside(&store.Event{Event: ev, NID: m.Event, Room: m.Room}); err != nil {
					return err
				}
				if err := tx.Memberships.Set(m, "", true); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := invited("!last:them.test"); err != nil {
			t.Fatal(err)
		}
		if err := invited("!more:them.test"); asFailure(err) == nil || asFailure(err).code != "M_LIMIT_EXCEEDED" {
			t.Errorf("one more: %v", err)
		}
	})
}

func TestStrippedStateIsLimited(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := id.RoomID("!r:them.test")
		piece := func(typ, key, content string) json.RawMessage {
			return json.RawMessage(fmt.Sprintf(`{"type":%q,"state_key":%q,"sender":"@bob:them.test","content":%s}`, typ, key, content))
		}
		large := func(n int) string { return `{"x":"` + strings.Repeat("x", n) + `"}` }
		first := large(60 << 10)
		given := []json.RawMessage{
			piece("m.room.topic", "", first), piece("m.room.avatar", "", large(6<<10)), piece("m.room.canonical_alias", "", large(12<<10)), piece("m.room.name", "", `{"name":"n"}`),
			piece("m.room.name", "", `{"name":"again"}`), piece("m.room.name", "x", `{}`), piece("org.example", "", `{}`),
			piece(event.TypeMember, string(bob), `{"membership":"join"}`), piece(event.TypeMember, "@c:them.test", `{}`), json.RawMessage(`5`),
		}
		if _, err := us.rooms.ReceiveInvite(t.Context(), them.name, roomID, "", "11", them.invite(t, roomID, "11", string(alice)), given); err != nil {
			t.Fatal(err)
		}
		var shown []json.RawMessage
		err := us.store.View(t.Context(), func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(roomID)
			if err != nil {
				return err
			}
			list, err := tx.Memberships.Shown(alice, []store.RoomNID{r.NID}, false)
			if err != nil {
				return err
			}
			return json.Unmarshal(list[r.NID], &shown)
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, raw := range shown {
			var s struct {
				Type string `json:"type"`
				Key  string `json:"state_key"`
			}
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatal(err)
			}
			got = append(got, s.Type+" "+s.Key)
		}
		want := []string{"m.room.name ", "m.room.member @bob:them.test", "m.room.avatar ", "m.room.member @alice:us.test"}
		if !slices.Equal(got, want) {
			t.Errorf("shown is %q", got)
		}
	})
}
