package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// follower is a client that keeps the state of a room as it is told (Client-Server API, "Syncing").
type follower struct {
	client
	room  id.RoomID
	known map[event.StateKeyTuple]ev
}

// sync takes over one answer.
func (f *follower) sync() *answer {
	a := f.next()
	for _, j := range []joined{a.Rooms.Join[f.room], a.Rooms.Leave[f.room]} {
		if f.r.UseStateAfter {
			if j.StateAfter != nil {
				f.apply(j.StateAfter.Events)
			} else if len(j.Timeline.Events) > 0 || j.State != nil {
				f.w.t.Errorf("state_after is missing")
			}
			continue
		}
		if j.StateAfter != nil {
			f.w.t.Errorf("there is state_after that nobody asked for")
		}
		if j.State != nil {
			f.apply(j.State.Events)
		}
		f.apply(j.Timeline.Events)
	}
	return a
}

func (f *follower) apply(list []ev) {
	for _, e := range list {
		if e.StateKey != nil {
			f.known[event.StateKeyTuple{Type: e.Type, StateKey: *e.StateKey}] = e
		}
	}
}

// stateOf is the current state of a room.
func (w *world) stateOf(roomID id.RoomID) (out []*store.Event) {
	w.t.Helper()
	w.must(w.db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		head, err := tx.Rooms.Head(r.NID)
		if err != nil {
			return err
		}
		m, err := tx.States.Map(head.State)
		if err != nil {
			return err
		}
		out, err = tx.States.Events(m)
		return err
	}))
	return out
}

// check compares what the client knows with the state of the room, as far as its filter lets it through. Who loads members
// lazily need not know all, but must know the senders of what it is shown, and must not take anybody for what they no longer are.
func (f *follower) check(a *answer) string {
	for _, want := range f.w.stateOf(f.room) {
		s := &f.r.Filter.Room.State
		got, known := f.known[want.Tuple()]
		switch {
		case !s.AllowsRoom(f.room) || !s.Allows(want.Type, want.Sender) || !s.AllowsContent(want.Content):
		case known && got.ID != want.ID:
			return fmt.Sprintf("%s of %q is known as %s by %s, not as %s by %s", want.Type, *want.StateKey, got.Content, got.Sender, want.Content, want.Sender)
		case !known && !(s.LazyLoadMembers && want.Type == event.TypeMember):
			return fmt.Sprintf("%s of %q by %s is not known", want.Type, *want.StateKey, want.Sender)
		}
	}
	for _, e := range a.Rooms.Join[f.room].Timeline.Events {
		member, known := f.known[event.StateKeyTuple{Type: event.TypeMember, StateKey: string(e.Sender)}]
		if s := &f.r.Filter.Room.State; !known && s.AllowsRoom(f.room) && s.Allows(event.TypeMember, e.Sender) && s.Unrestricted() {
			return fmt.Sprintf("the sender of %s is not known, but %s", bodies([]ev{e}), member.ID)
		}
	}
	return ""
}

// followFilters are filters of clients; %A and %B are users that act in the room.
var followFilters = []string{
	`{}`, `{"room":{"timeline":{"limit":1}}}`, `{"room":{"timeline":{"limit":3}}}`, `{"room":{"timeline":{"limit":0}}}`,
	`{"room":{"timeline":{"types":["m.room.message"]}}}`, `{"room":{"timeline":{"not_types":["m.room.member","m.room.encryption"],"limit":4}}}`,
	`{"room":{"timeline":{"not_senders":["%A"]}}}`, `{"room":{"timeline":{"senders":["%A"],"limit":2}}}`,
	`{"room":{"timeline":{"senders":["%B"]},"state":{"senders":["%B"]}}}`, `{"room":{"timeline":{"contains_url":true}}}`,
	`{"room":{"timeline":{"not_rooms":["%R"]}}}`, `{"room":{"state":{"not_rooms":["%R"]}}}`,
	`{"room":{"state":{"types":["m.room.name","m.room.encryption"]},"timeline":{"limit":1}}}`,
	`{"room":{"state":{"lazy_load_members":true}}}`, `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`,
	`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2,"not_senders":["%B"]}}}`,
	`{"room":{"state":{"lazy_load_members":true},"timeline":{"types":["m.room.message"]}}}`,
	`{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true},"timeline":{"limit":2}}}`,
}

// TestFollowing: whoever takes over the state and the timelines of answers in order has the state of the room, as far as
// they may see it: with any filter, from any token, through leaving and coming back, whatever forks.
func TestFollowing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other := w.forker()
		round := 0
		storetest.Check(t, func(rt *rapid.T) {
			round++
			w.sync.HoldState(round % 2 * clientsync.MaxWholeState) // or it is read while the answer goes out
			follow(rt, w, other, fmt.Sprint(round))
		})
	})
}

// follow is one story of a room: of its creator, of two who come and go, of one who comes and goes and whose clients look, and
// of two of another server.
func follow(rt *rapid.T, w *world, other *forker, suffix string) {
	alice, bob, carol, reader := "alice"+suffix, "bob"+suffix, "carol"+suffix, "reader"+suffix
	r := w.create(alice, room.Creation{})
	eve, frank := id.UserID("@eve:"+otherServer), id.UserID("@frank:"+otherServer)
	levels := `{"users":{%q:90,%q:90,%q:%d},"state_default":%d}`
	w.state(r, alice, "m.room.power_levels", "", fmt.Sprintf(levels, user(bob), eve, frank, 0, 0))
	forked := rapid.Bool().Draw(rt, "forked")
	var clients []*follower
	newClient := func() {
		text := rapid.SampledFrom(followFilters).Draw(rt, "filter")
		parsed, err := filter.Parse([]byte(strings.NewReplacer("%A", string(user(alice)), "%B", string(user(bob)), "%R", string(r)).Replace(text)))
		w.must(err)
		f := &follower{client{w, clientRequest(reader, fmt.Sprintf("D%d", len(clients)), parsed)}, r, map[event.StateKeyTuple]ev{}}
		f.r.UseStateAfter = rapid.Bool().Draw(rt, "after")
		clients = append(clients, f)
	}
	newClient()
	members := map[string]string{bob: "leave", carol: "leave", reader: "leave"}
	member := func(sender, target, membership string) {
		if w.rooms.SetMembership(context.Background(), room.Change{Room: r, Sender: user(sender), Target: user(target), Membership: membership}) == nil {
			members[target] = membership
		}
	}
	type past struct {
		f     *follower
		since *stream.Token
		known map[event.StateKeyTuple]ev
	}
	var pasts []past
	look := func() {
		f := rapid.SampledFrom(clients).Draw(rt, "client")
		if len(pasts) > 0 && rapid.IntRange(0, 5).Draw(rt, "back") == 0 {
			p := rapid.SampledFrom(pasts).Draw(rt, "past")
			f = p.f
			f.r.Since, f.known = p.since, maps.Clone(p.known)
		}
		f.r.FullState = rapid.IntRange(0, 9).Draw(rt, "full") == 0
		a := f.sync()
		problem := f.check(a)
		if problem != "" && forked {
			problem = f.check(f.sync()) // an answer may leave it to the next to say who lost
		}
		if members[reader] == "join" && problem != "" {
			rt.Fatalf("device %s: %s", f.r.Device, problem)
		}
		pasts = append(pasts, past{f, f.r.Since, maps.Clone(f.known)})
	}
	n := 0
	state := func() {
		n++
		sender := rapid.SampledFrom([]string{alice, bob}).Draw(rt, "sender")
		if members[sender] != "join" && sender != alice {
			return
		}
		pair := rapid.SampledFrom([][2]string{
			{"m.room.name", `{"name":"%d"}`}, {"m.room.topic", `{"topic":"%d"}`}, {"m.room.topic", `{"topic":"%d","url":"x"}`},
			{"m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2","n":%d}`},
			{"m.room.history_visibility", `{"history_visibility":"joined","n":%d}`}, {"m.room.history_visibility", `{"history_visibility":"invited","n":%d}`},
			{"m.room.history_visibility", `{"history_visibility":"shared","n":%d}`}, {"m.room.history_visibility", `{"history_visibility":"world_readable","n":%d}`},
		}).Draw(rt, "state")
		w.state(r, sender, pair[0], "", fmt.Sprintf(pair[1], n))
	}
	actions := []func(){
		look, look, look, state, state, newClient,
		func() { w.say(r, alice, "hi") },
		func() {
			if members[bob] == "join" {
				w.say(r, bob, "ho")
			}
		},
		func() {
			who := rapid.SampledFrom([]string{bob, carol, reader, reader}).Draw(rt, "who")
			member(who, who, rapid.SampledFrom([]string{"join", "join", "leave"}).Draw(rt, "membership"))
		},
		func() {
			who := rapid.SampledFrom([]string{carol, reader}).Draw(rt, "whom")
			member(alice, who, rapid.SampledFrom([]string{"invite", "ban", "leave"}).Draw(rt, "by force"))
		},
	}
	if forked {
		something := func() event.Proto {
			n++
			return foreign(rt, eve, frank, n, func(l, all int) string { return fmt.Sprintf(levels, user(bob), eve, frank, l, all) }, user(carol), user(bob), user(reader))
		}
		actions = append(actions, other.actions(rt, r, eve, frank, something, look, func() {
			for _, who := range []string{bob, carol, reader} {
				m, _, err := w.rooms.MembershipOf(context.Background(), r, user(who))
				w.must(err)
				members[who] = m
			}
		})...)
	}
	for range rapid.IntRange(5, 40).Draw(rt, "steps") {
		rapid.SampledFrom(actions).Draw(rt, "action")()
	}
	member(alice, reader, "leave")
	member(reader, reader, "join")
	look()
}

// foreign is something that another server's users do.
func foreign(rt *rapid.T, eve, frank id.UserID, n int, levels func(frank, all int) string, targets ...id.UserID) event.Proto {
	sender := rapid.SampledFrom([]id.UserID{eve, frank}).Draw(rt, "foreigner")
	none, self, target := "", string(sender), string(rapid.SampledFrom(targets).Draw(rt, "target"))
	p := rapid.SampledFrom([]event.Proto{
		{Type: "m.room.message", Content: json.RawMessage(`{"body":"hey"}`)},
		{Type: "m.room.message", Content: json.RawMessage(`{"body":"hey"}`)},
		{Type: "m.room.topic", StateKey: &none, Content: json.RawMessage(fmt.Sprintf(`{"topic":"theirs %d"}`, n))},
		{Type: "m.room.name", StateKey: &none, Content: json.RawMessage(fmt.Sprintf(`{"name":"theirs %d"}`, n))},
		{Type: event.TypeMember, StateKey: &self, Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, n))},
		{Type: event.TypeMember, StateKey: &target, Content: json.RawMessage(`{"membership":"leave"}`)},
		{Type: event.TypeMember, StateKey: &target, Content: json.RawMessage(`{"membership":"ban"}`)},
		{Type: event.TypePowerLevels, StateKey: &none, Content: json.RawMessage(levels(n%2*60, n%3*25))},
	}).Draw(rt, "foreign")
	p.Sender = sender
	return p
}

// TestStateOfWhileAway: what others set while a user was away reaches them when they come back, wherever the timeline
// does not show it.
func TestStateOfWhileAway(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, visibility := range []string{"joined", "invited", "shared"} {
			w := newWorld(t, db)
			alice, bob, carol, dave := "alice-"+visibility, "bob-"+visibility, "carol-"+visibility, "dave-"+visibility
			r := w.create(alice, room.Creation{})
			w.state(r, alice, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, visibility))
			w.join(r, carol)
			w.join(r, bob)
			w.join(r, dave)
			lazy := w.client(bob, `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}`)
			plain, full := w.client(bob, `{}`), w.client(bob, `{}`)
			plain.r.Device, full.r.Device, full.r.FullState = "PLAIN", "FULL", true
			clients := map[string]*follower{
				"plain": {*plain, r, map[event.StateKeyTuple]ev{}}, "lazy": {*lazy, r, map[event.StateKeyTuple]ev{}}, "full": {*full, r, map[event.StateKeyTuple]ev{}},
			}
			for _, f := range clients {
				f.sync()
			}
			w.set(r, bob, bob, "leave")
			for _, f := range clients {
				f.sync()
			}
			w.state(r, alice, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
			w.set(r, alice, carol, "ban")
			w.set(r, dave, dave, "leave")
			w.say(r, alice, "one")
			w.join(r, bob)
			w.say(r, alice, "two")
			clients["first"] = &follower{*w.client(bob, `{}`), r, map[event.StateKeyTuple]ev{}}
			for name, f := range clients {
				if problem := f.check(f.sync()); problem != "" {
					t.Errorf("%s, %s: %s", visibility, name, problem)
				}
				for key, want := range map[event.StateKeyTuple]string{
					{Type: "m.room.encryption"}: "m.megolm.v1.aes-sha2", {Type: event.TypeMember, StateKey: string(user(carol))}: "ban",
					{Type: event.TypeMember, StateKey: string(user(dave))}: "leave",
				} {
					if got := string(f.known[key].Content); !strings.Contains(got, want) {
						t.Errorf("%s, %s: %v is %s, not %s", visibility, name, key, got, want)
					}
				}
			}
		}
	})
}

// TestGapBringsMembers: a limited answer tells of all members who changed in the gap, also to who loads them lazily and was
// told of them before or not.
func TestGapBringsMembers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{Name: "Named"}) // has no heroes, who would be told in any case
		for _, n := range []string{"bob", "carol", "dave"} {
			w.join(r, n)
		}
		alice := w.client("alice", `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}`)
		alice.next()
		w.set(r, "bob", "bob", "leave")
		w.set(r, "alice", "carol", "ban")
		w.join(r, "erin")
		w.say(r, "alice", "one")
		w.say(r, "alice", "two")
		w.say(r, "alice", "three")
		j := alice.next().Rooms.Join[r]
		if !j.Timeline.Limited || j.State == nil {
			t.Fatalf("the room is %+v", j)
		}
		check(t, "the state", bodies(j.State.Events), "bob leave, alice ban, erin join")
	})
}

// TestDeclinedAfterLeaving: who left, was invited again and declined is not shown what was set after they had left.
func TestDeclinedAfterLeaving(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		bob := w.client("bob", "")
		bob.next()
		w.set(r, "bob", "bob", "leave")
		bob.next()
		w.state(r, "alice", "m.room.name", "", `{"name":"Secret"}`)
		w.say(r, "alice", "secret")
		w.set(r, "alice", "bob", "invite")
		w.set(r, "bob", "bob", "leave")
		archive := w.client("bob", `{"room":{"include_leave":true}}`)
		for name, c := range map[string]*client{"next": bob, "archive": archive} {
			left := c.next().Rooms.Leave[r]
			if left.State != nil && strings.Contains(bodies(left.State.Events), "name") || strings.Contains(bodies(left.Timeline.Events), "secret") {
				t.Errorf("%s: shown are the state %s and the timeline %s", name, bodies(left.State.Events), bodies(left.Timeline.Events))
			}
		}
	})
}

// TestNameTakenAway: who has no other name for a room any longer is told of its heroes.
func TestNameTakenAway(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for i, away := range []func(id.RoomID, id.EventID){
			func(r id.RoomID, _ id.EventID) { w.state(r, "alice", "m.room.name", "", `{}`) },
			func(r id.RoomID, name id.EventID) {
				_, err := w.rooms.Redact(context.Background(), r, user("alice"), name, json.RawMessage(`{}`), nil)
				w.must(err)
			},
		} {
			for _, text := range []string{"", `{"room":{"timeline":{"types":["m.room.message"]},"state":{"lazy_load_members":true}}}`, `{"room":{"timeline":{"limit":1}}}`} {
				r := w.create("alice", room.Creation{})
				w.join(r, "bob")
				name := w.state(r, "alice", "m.room.name", "", `{"name":"N"}`)
				alice := w.client("alice", text)
				alice.r.Device = id.DeviceID(fmt.Sprint("D", i, text))
				alice.next()
				away(r, name)
				w.say(r, "alice", "hi")
				if got := string(alice.next().Rooms.Join[r].Summary); !strings.Contains(got, `"m.heroes":["@bob:one.test"]`) {
					t.Errorf("%d, filter %s: the summary is %s", i, text, got)
				}
			}
		}
	})
}
