package federation

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// await waits until this server has an event in its history that one of its users may see.
func (p *peer) await(user id.UserID, eventID id.EventID) {
	p.Helper()
	w := p.store.Hub.Subscribe(user)
	defer w.Close()
	ctx := p.Context()
	for {
		var ev *store.Event
		if err := p.store.View(ctx, func(tx *store.Tx) (err error) { ev, err = tx.Events.Get(eventID); return err }); err != nil {
			p.Fatal(err)
		}
		if ev != nil && ev.Position != 0 {
			return
		}
		<-w.C
	}
}

func (p *peer) create(c room.Creation) id.RoomID {
	p.Helper()
	roomID, err := p.rooms.Create(p.Context(), c, nil)
	if err != nil {
		p.Fatal(err)
	}
	return roomID
}

func (p *peer) say(roomID id.RoomID, user id.UserID, text string) id.EventID {
	p.Helper()
	eventID, err := p.rooms.Send(p.Context(), room.Message{
		Room: roomID, Sender: user, Type: "m.room.message", Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`),
	})
	if err != nil {
		p.Fatal(err)
	}
	return eventID
}

func (p *peer) set(roomID id.RoomID, user id.UserID, typ, content string) id.EventID {
	p.Helper()
	key := ""
	eventID, err := p.rooms.Send(p.Context(), room.Message{Room: roomID, Sender: user, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		p.Fatal(err)
	}
	return eventID
}

func (p *peer) join(roomID id.RoomID, user id.UserID, via id.ServerName) error {
	return p.rooms.Join(p.Context(), room.Change{Room: roomID, Sender: user, Target: user, Membership: "join", Via: []id.ServerName{via}})
}

const (
	alice id.UserID = "@alice:us.test"
	bob   id.UserID = "@bob:them.test"
)

func TestTwoServersShareRooms(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for _, version := range []id.RoomVersion{"1", "3", "6", "10", "12"} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat", Version: version})
			before := us.say(roomID, alice, "before")
			if err := them.join(roomID, bob, "us.test"); err != nil {
				t.Fatalf("version %s: %v", version, err)
			}
			them.await(bob, us.say(roomID, alice, "hello"))
			us.await(alice, them.say(roomID, bob, "hello yourself"))
			c := them.remote.Client
			state, err := c.StateIDs(t.Context(), us.name, roomID, before)
			if err != nil || len(state.PDUIDs) != 5 || len(state.AuthChainIDs) == 0 {
				t.Errorf("version %s: the state is %+v, %v", version, state, err)
			}
			whole, err := c.State(t.Context(), us.name, roomID, before)
			if err != nil || len(whole.PDUs) != len(state.PDUIDs) || len(whole.AuthChain) != len(state.AuthChainIDs) {
				t.Errorf("version %s: the state is %+v, %v", version, whole, err)
			}
			raw, err := c.Event(t.Context(), us.name, before)
			if v, _ := event.VersionOf(version); err == nil {
				var ev *event.Event
				if ev, err = event.Parse(v, raw); err == nil && ev.ID != before {
					t.Errorf("version %s: got the event %s", version, ev.ID)
				}
			}
			if err != nil {
				t.Errorf("version %s: the event: %v", version, err)
			}
			page, err := c.Backfill(t.Context(), us.name, roomID, []id.EventID{before}, 3)
			if err != nil || len(page) != 3 {
				t.Errorf("version %s: backfill gave %d, %v", version, len(page), err)
			}
			if err := them.rooms.Leave(t.Context(), room.Change{Room: roomID, Sender: bob}); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestInvitesOverFederation(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "private_chat"})
		if err := them.join(roomID, bob, "us.test"); !errors.Is(err, room.ErrForbidden) {
			t.Errorf("joining without an invite: %v", err)
		}
		if err := us.rooms.Invite(t.Context(), room.Change{Room: roomID, Sender: alice, Target: bob}); err != nil {
			t.Fatal(err)
		}
		if m, _, err := them.rooms.MembershipOf(t.Context(), roomID, bob); err != nil || m != "invite" {
			t.Errorf("bob's membership is %q, %v", m, err)
		}
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		us.await(alice, them.say(roomID, bob, "thanks"))
	})
}

// TestStrangersEndNoInvites: the end of an invite comes from a server of which nothing is known here. It is believed if it
// names the invite, which only servers in the room can.
func TestStrangersEndNoInvites(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test", "third.test")
		us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
		them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		third := newPeer(t, n, "third.test", db)
		const invited id.UserID = "@alice:third.test"
		for _, membership := range []string{"leave", "ban"} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat", PowerOverride: map[string]json.RawMessage{"users": json.RawMessage(`{"@bob:them.test":50}`)}})
			if err := them.join(roomID, bob, "us.test"); err != nil {
				t.Fatal(err)
			}
			if err := us.rooms.Invite(t.Context(), room.Change{Room: roomID, Sender: alice, Target: invited}); err != nil {
				t.Fatal(err)
			}
			invite := us.member(roomID, invited)
			them.await(bob, invite)
			key := string(invited)
			end := event.Proto{Type: event.TypeMember, StateKey: &key, Sender: bob, Content: json.RawMessage(`{"membership":"` + membership + `"}`)}
			ignorant := them.forge(us, roomID, end)
			end.AuthEvents = []id.EventID{invite}
			informed := them.forge(us, roomID, end)
			for _, c := range []struct {
				ev   *event.Event
				want string
			}{{ignorant, "invite"}, {informed, membership}} {
				received := third.rooms.Receive(t.Context(), them.name, roomID, []json.RawMessage{c.ev.JSON})
				m, _, err := third.rooms.MembershipOf(t.Context(), roomID, invited)
				if err != nil || m != c.want || (received[0].Err == nil) != (m == membership) {
					t.Errorf("%s: the membership is %q, want %q, %v, %v", membership, m, c.want, err, received[0].Err)
				}
			}
		}
	})
}

// TestUnknownVersionsAreNamed: a room of a version that only others know is no room that is not there.
func TestUnknownVersionsAreNamed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test")
		them := newPeer(t, n, "them.test", db)
		const us id.ServerName = "us.test"
		for what, answer := range map[string]func(http.ResponseWriter){
			"template": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"room_version":"next","event":{}}`)) },
			"refusal": func(w http.ResponseWriter) {
				w.WriteHeader(400)
				_, _ = w.Write([]byte(`{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"no","room_version":"next"}`))
			},
		} {
			n.Serve(us, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			err := them.join("!r:us.test", bob, us)
			var version *room.IncompatibleVersion
			if !errors.As(err, &version) || version.Version != "next" || !errors.Is(err, room.ErrUnknownVersion) {
				t.Errorf("%s: %v", what, err)
			}
		}
		n.Serve(us, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"event":[]}`)) }))
		if err := them.join("!r:us.test", bob, us); !errors.Is(err, room.ErrBadAnswer) {
			t.Errorf("a template that is none: %v", err)
		}
	})
}

func TestMembersAreOmittedOnRequest(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat", Version: "10"})
		v, _ := event.VersionOf("10")
		want := []id.EventID{us.member(roomID, alice)}
		for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
			u := id.UserID("@" + name + ":" + string(us.name))
			if err := us.rooms.Join(t.Context(), room.Change{Room: roomID, Sender: u, Target: u}); err != nil {
				t.Fatal(err)
			}
			want = append(want, us.member(roomID, u))
		}
		self := string(bob)
		join := them.forge(us, roomID, event.Proto{
			Type: event.TypeMember, StateKey: &self, Sender: bob, Content: json.RawMessage(`{"membership":"join"}`),
		})
		for _, omit := range []bool{true, false} {
			joined, err := them.remote.Client.SendJoin(t.Context(), us.name, roomID, join.ID, join.JSON, omit)
			if err != nil {
				t.Fatal(err)
			}
			if joined.MembersOmitted != omit || !slices.Equal(joined.ServersInRoom, []id.ServerName{us.name}) {
				t.Errorf("asked to omit: %t, but %t, in servers %v", omit, joined.MembersOmitted, joined.ServersInRoom)
			}
			members := func(list []json.RawMessage) (out []id.EventID) {
				for _, raw := range list {
					ev, err := event.Parse(v, raw)
					if err != nil {
						t.Fatal(err)
					}
					if ev.Type == event.TypeMember {
						out = append(out, ev.ID)
					}
				}
				return out
			}
			// Some stay, whom the room is named by.
			inState, inChain := members(joined.State), members(joined.AuthChain)
			if omit && !slices.Equal(inState, want[:5]) || !omit && len(inState) != len(want) || len(joined.State) < 4 {
				t.Errorf("asked to omit: %t, but of %d pieces of state these are members: %v", omit, len(joined.State), inState)
			}
			if omit && len(joined.AuthChain) != 0 || !omit && !slices.Contains(inChain, want[0]) {
				t.Errorf("asked to omit: %t, but of the auth chain these are members: %v", omit, inChain)
			}
		}
	})
}

// TestMissingEventsAreShownAsTheyMay asks for what happened before a server joined.
func TestMissingEventsAreShownAsTheyMay(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for setting, visible := range map[string]bool{"world_readable": true, "shared": true, "invited": false, "joined": false} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
			us.set(roomID, alice, event.TypeHistoryVisibility, `{"history_visibility":"`+setting+`"}`)
			said := us.say(roomID, alice, "secret")
			if err := them.join(roomID, bob, "us.test"); err != nil {
				t.Fatal(err)
			}
			joined := them.member(roomID, bob)
			c := them.remote.Client
			create := id.EventID("$" + roomID[1:])
			events, err := c.MissingEvents(t.Context(), us.name, roomID, client.MissingEvents{
				EarliestEvents: []id.EventID{create}, LatestEvents: []id.EventID{joined}, Limit: 20,
			})
			if err != nil {
				t.Fatal(err)
			}
			v, _ := event.VersionOf("12")
			var depths []int64
			for _, raw := range events {
				ev, err := event.Parse(v, raw)
				if err != nil {
					t.Fatal(err)
				}
				depths = append(depths, ev.Depth)
				if ev.ID == create || ev.ID == joined {
					t.Errorf("%s: an end is among the events", setting)
				}
				if ev.ID == said && visible != (string(ev.Content) != "{}") {
					t.Errorf("%s: the message's content is %s", setting, ev.Content)
				}
			}
			if !slices.IsSorted(depths) || len(depths) < 5 {
				t.Errorf("%s: the depths are %v", setting, depths)
			}
			limited, err := c.MissingEvents(t.Context(), us.name, roomID, client.MissingEvents{LatestEvents: []id.EventID{joined}, Limit: 1})
			if err != nil || len(limited) != 1 {
				t.Errorf("%s: one event was asked for, %d came, %v", setting, len(limited), err)
			}
		}
	})
}

// member is the event that a user's membership comes from.
func (p *peer) member(roomID id.RoomID, user id.UserID) (eventID id.EventID) {
	p.Helper()
	err := p.store.View(p.Context(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		m, err := tx.Memberships.Get(r.NID, user)
		if err != nil {
			return err
		}
		events, err := tx.Events.ByNID(m.Event)
		eventID = events[0].ID
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	return eventID
}

// TestBarredServersCannotAskTheDirectory: not about the room that bars them.
func TestBarredServersCannotAskTheDirectory(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for alias, barred := range map[id.RoomAlias]bool{"#open:us.test": false, "#closed:us.test": true} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
			if barred {
				us.set(roomID, alice, "m.room.server_acl", `{"allow":["*"],"deny":["them.*"]}`)
			}
			if err := us.api.Directory.Put(t.Context(), alias, roomID, alice); err != nil {
				t.Fatal(err)
			}
			found, err := them.remote.ResolveAlias(t.Context(), alias)
			if barred && !errors.Is(err, room.ErrForbidden) || !barred && (err != nil || found.Room != roomID) {
				t.Errorf("%s: %v, %v", alias, found, err)
			}
		}
	})
}

func TestEventAuthIsTheWholeChain(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		rules := us.set(roomID, alice, event.TypeJoinRules, `{"join_rule":"invite"}`)
		chain, err := them.remote.EventAuth(t.Context(), us.name, roomID, rules)
		if err != nil || len(chain) != 3 { // m.room.create, the creator's membership, power levels
			t.Errorf("the chain has %d events, %v", len(chain), err)
		}
	})
}

func TestOutsidersGetNothing(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		said := us.say(roomID, alice, "hello")
		r := them.remote
		_, _, stateErr := r.State(t.Context(), us.name, roomID, said)
		_, eventErr := r.Event(t.Context(), us.name, said)
		_, backfillErr := r.Backfill(t.Context(), us.name, roomID, []id.EventID{said}, 10)
		_, missingErr := r.MissingEvents(t.Context(), us.name, roomID, nil, []id.EventID{said}, 10)
		_, authErr := r.EventAuth(t.Context(), us.name, roomID, said)
		for what, err := range map[string]error{"state": stateErr, "backfill": backfillErr, "missing events": missingErr, "auth": authErr} {
			if !errors.Is(err, room.ErrForbidden) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := r.Event(t.Context(), us.name, "$unknown"); !errors.Is(err, room.ErrNotFound) || err.Error() != eventErr.Error() {
			t.Errorf("an unknown event: %v, one that is not for them: %v", err, eventErr)
		}
		// Barred servers are out even if they are in the room.
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		them.await(bob, us.set(roomID, alice, "m.room.server_acl", `{"allow":["*"],"deny":["them.*"]}`))
		if _, _, err := r.State(t.Context(), us.name, roomID, said); !errors.Is(err, room.ErrForbidden) {
			t.Errorf("state for a barred server: %v", err)
		}
		if err := them.join(roomID, "@carol:them.test", "us.test"); err != nil {
			t.Fatal(err) // it knows no better, since it is in the room
		}
		them.out.Settle(t.Context(), us.name)
		if m, _, err := us.rooms.MembershipOf(t.Context(), roomID, "@carol:them.test"); err != nil || m != "" {
			t.Errorf("a barred server brought somebody in: %q, %v", m, err)
		}
	})
}

func TestNearestEventIsOneThatIsShown(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		us.api.NearestEvent = (&timeline.Service{Store: us.store}).Nearest
		for setting, visible := range map[string]bool{"shared": true, "joined": false} {
			roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
			us.set(roomID, alice, event.TypeHistoryVisibility, `{"history_visibility":"`+setting+`"}`)
			for before := time.Now().UnixMilli(); time.Now().UnixMilli() == before; {
				runtime.Gosched() // or both are as near
			}
			said := us.say(roomID, alice, "secret")
			if err := them.join(roomID, bob, "us.test"); err != nil {
				t.Fatal(err)
			}
			us.set(roomID, alice, "m.room.name", `{"name":"n"}`)
			var at int64
			err := us.store.View(t.Context(), func(tx *store.Tx) error {
				ev, err := tx.Events.Get(said)
				at = ev.OriginServerTS
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			_, _, state := us.stands(roomID)
			var after []id.EventID // what is shown in any case
			for _, ev := range state {
				if ev.Type == "m.room.name" || ev.Type == event.TypeMember && ev.Sender == bob {
					after = append(after, ev.ID)
				}
			}
			found, _, err := them.remote.NearestEvent(t.Context(), us.name, roomID, at, "f")
			if err != nil || slices.Contains(after, found) == visible {
				t.Errorf("%s: found %s, %v", setting, found, err)
			}
		}
	})
}

func TestMissingParameters(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	for _, c := range []struct{ method, path, body string }{
		{"GET", "query/profile", ""}, {"GET", "query/directory", ""}, {"GET", "state/!r:us.test", ""}, {"GET", "state_ids/!r:us.test", ""},
		{"GET", "backfill/!r:us.test?limit=5", ""}, {"GET", "timestamp_to_event/!r:us.test?dir=f", ""}, {"GET", "timestamp_to_event/!r:us.test?ts=5", ""},
		{"POST", "user/keys/query", "{}"}, {"POST", "user/keys/claim", "{}"},
	} {
		status, answer := them.request(us, c.method, "/_matrix/federation/v1/"+c.path, c.body, nil)
		if status != 400 || answer["errcode"] != "M_MISSING_PARAM" {
			t.Errorf("%s: %d %v", c.path, status, answer)
		}
	}
}

func TestOnlyWhatMattersIsRemembered(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		for txn, c := range map[string]struct {
			body string
			want bool
		}{
			"empty":     {`{"pdus":[]}`, false},
			"typing":    {`{"pdus":[],"edus":[{"edu_type":"m.typing","content":{}}]}`, false},
			"to-device": {`{"pdus":[],"edus":[{"edu_type":"m.direct_to_device","content":{}}]}`, true},
			"an event":  {`{"pdus":[{}]}`, true},
		} {
			if status, answer := them.request(us, "PUT", "/_matrix/federation/v1/send/"+url.PathEscape(txn), c.body, nil); status != 200 {
				t.Errorf("%s: %d %v", txn, status, answer)
			}
			err := us.store.View(t.Context(), func(tx *store.Tx) error {
				answer, _, err := tx.Received.Answer(them.name, txn)
				if (answer != nil) != c.want {
					t.Errorf("%s: remembered is %q", txn, answer)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}
