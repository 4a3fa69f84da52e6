package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// reporter is what tests and those of properties have in common.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// forker is another server that lets its events follow whichever it likes.
type forker struct {
	reporter
	us, them *room.Engine
	room     id.RoomID
	clock    int64
}

// fork makes a public room with two users of the other server, bob and mallory.
func fork(t reporter, us, them *room.Engine, v id.RoomVersion) *forker {
	t.Helper()
	f := &forker{reporter: t, us: us, them: them, clock: time.Now().UnixMilli()}
	var err error
	if f.room, err = us.Create(context.Background(), room.Creation{Creator: user("alice"), Version: v, Preset: "public_chat"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"@bob:two.test", "@mallory:two.test"} {
		f.deliver(f.forge(f.last(), event.Proto{Type: event.TypeMember, StateKey: &user, Sender: id.UserID(user), Content: json.RawMessage(`{"membership":"join"}`)}))
	}
	return f
}

func (f *forker) view(see func(tx *store.Tx, r *store.Room) error) {
	f.Helper()
	err := f.us.Store.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(f.room)
		if err != nil {
			return err
		}
		return see(tx, r)
	})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *forker) last() id.EventID {
	f.Helper()
	list := f.timeline()
	return list[len(list)-1].ID
}

func (f *forker) timeline() (list []*store.Event) {
	f.Helper()
	f.view(func(tx *store.Tx, r *store.Room) error {
		upto, err := tx.Position()
		if err == nil {
			list, err = tx.Events.Range(r.NID, 0, upto, math.MaxInt32, false)
		}
		return err
	})
	return list
}

// after is the state behind an event.
func (f *forker) after(tx *store.Tx, ev *store.Event) map[event.StateKeyTuple]id.EventID {
	f.Helper()
	m, err := tx.States.Map(ev.StateBefore)
	if err != nil {
		f.Fatal(err)
	}
	list, err := tx.States.Events(m)
	if err != nil || len(list) != m.Len() {
		f.Fatalf("%d events of a state of %d, %v", len(list), m.Len(), err)
	}
	out := map[event.StateKeyTuple]id.EventID{}
	for _, e := range list {
		out[e.Tuple()] = e.ID
	}
	if ev.StateKey != nil && !ev.Rejected {
		out[ev.Tuple()] = ev.ID
	}
	return out
}

// forge builds an event that follows another one; if the proto names what it follows, it has the state of the other all the same.
func (f *forker) forge(prev id.EventID, p event.Proto) *event.Event {
	f.Helper()
	f.view(func(tx *store.Tx, r *store.Room) error {
		ev, err := tx.Events.Get(prev)
		if err != nil {
			return err
		}
		state := f.after(tx, ev)
		for _, t := range eventauth.AuthEventsNeeded(r.Version, p.Type, p.StateKey, p.Sender, p.Content) {
			if a, ok := state[t]; ok {
				p.AuthEvents = append(p.AuthEvents, a)
			}
		}
		if r.Version.EventIDs == event.EventIDInEvent {
			p.Hashes = map[id.EventID]string{}
			named, err := tx.Events.ByID(append(p.AuthEvents, prev)...)
			if err != nil {
				return err
			}
			for _, n := range named {
				p.Hashes[n.ID] = n.ReferenceHash()
			}
		}
		f.clock++
		p.RoomID, p.Depth, p.OriginServerTS = f.room, ev.Depth+1, f.clock
		if p.PrevEvents == nil {
			p.PrevEvents = []id.EventID{prev}
		}
		v, err := event.Build(r.Version, p, f.them.Server, f.them.Key)
		if err != nil {
			return err
		}
		prev = v.Event().ID
		p.Content = v.Event().JSON
		return nil
	})
	v, _ := event.VersionOf(f.version())
	ev, err := event.Parse(v, p.Content)
	if err != nil {
		f.Fatal(err)
	}
	return ev
}

func (f *forker) version() (v id.RoomVersion) {
	f.view(func(_ *store.Tx, r *store.Room) error { v = r.Version.ID; return nil })
	return v
}

func (f *forker) deliver(events ...*event.Event) {
	f.Helper()
	for _, ev := range events {
		for _, r := range f.us.Receive(context.Background(), f.them.Server, f.room, []json.RawMessage{ev.JSON}) {
			if r.Err != nil {
				f.Fatalf("%s of %s: %v", ev.Type, ev.Sender, r.Err)
			}
		}
	}
}

func (f *forker) message(prev id.EventID, sender id.UserID, text string) *event.Event {
	f.Helper()
	return f.forge(prev, event.Proto{Type: "m.room.message", Sender: sender, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
}

func (f *forker) set(typ, key, content string) {
	f.Helper()
	_, err := f.us.Send(context.Background(), room.Message{Room: f.room, Sender: user("alice"), Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *forker) say(text string) {
	f.Helper()
	_, err := f.us.Send(context.Background(), room.Message{Room: f.room, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
	if err != nil {
		f.Fatal(err)
	}
}

// source shows stored events to the resolution of state.
type source struct {
	reporter
	tx *store.Tx
}

func (s source) get(eventID id.EventID) *store.Event {
	ev, err := s.tx.Events.Get(eventID)
	if err != nil {
		s.Fatal(err)
	}
	return ev
}

func (s source) Event(eventID id.EventID) *event.Event {
	if ev := s.get(eventID); ev != nil {
		return ev.Event
	}
	return nil
}

func (s source) Rejected(eventID id.EventID) bool {
	ev := s.get(eventID)
	return ev != nil && ev.Rejected
}

func (s source) Expect([]id.EventID) {}

func (s source) Place(eventID id.EventID) (stateres.Place, bool) {
	ev := s.get(eventID)
	if ev == nil {
		return stateres.Place{}, false
	}
	p := stateres.Place{Rank: 1, Auth: ev.AuthEvents}
	for _, a := range ev.AuthEvents {
		above, ok := s.Place(a)
		p.Rank = max(p.Rank, above.Rank+1)
		if ok && p.Levels == "" && s.get(a).StateKeyIs(event.TypePowerLevels, "") {
			p.Levels = a
		}
	}
	return p, true
}

// check compares the state before each event with what its predecessors resolve to, and the current state with what all
// ends resolve to.
func (f *forker) check() {
	f.Helper()
	list := f.timeline()
	f.view(func(tx *store.Tx, r *store.Room) error {
		resolve := func(ids []id.EventID) map[event.StateKeyTuple]id.EventID {
			var sets []map[event.StateKeyTuple]id.EventID
			for _, i := range ids {
				sets = append(sets, f.after(tx, source{f, tx}.get(i)))
			}
			out, err := stateres.Resolve(r.Version, stateres.Nothing{}, sets, source{f, tx})
			if err != nil {
				f.Fatal(err)
			}
			return out
		}
		for _, ev := range list {
			if len(ev.PrevEvents) > 10 {
				f.Fatalf("an event follows %d", len(ev.PrevEvents))
			}
			before := f.after(tx, &store.Event{Event: &event.Event{}, StateBefore: ev.StateBefore})
			if want := resolve(ev.PrevEvents); !maps.Equal(before, want) {
				f.Fatalf("the state before %s is %v, its predecessors say %v", ev.ID, before, want)
			}
		}
		ends := endsOf(list)
		if now, want := f.now(tx, r), resolve(ends); !maps.Equal(now, want) {
			f.Fatalf("the state of %d ends is %v, they say %v", len(ends), now, want)
		}
		return nil
	})
}

// endsOf are the events that no other one follows.
func endsOf(list []*store.Event) (ends []id.EventID) {
	for _, ev := range list {
		ends = append(slices.DeleteFunc(ends, func(i id.EventID) bool { return slices.Contains(ev.PrevEvents, i) }), ev.ID)
	}
	return ends
}

// now is the current state.
func (f *forker) now(tx *store.Tx, r *store.Room) map[event.StateKeyTuple]id.EventID {
	f.Helper()
	head, err := tx.Rooms.Head(r.NID)
	if err != nil {
		f.Fatal(err)
	}
	return f.after(tx, &store.Event{Event: &event.Event{}, StateBefore: head.State})
}

// TestForksForgetNothing: a member without power lets many messages follow one old event. What was set since then stays,
// also once the ends are tied together.
func TestForksForgetNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		for _, v := range []id.RoomVersion{"2", "6", "10", "12"} {
			f := fork(t, one, two, v)
			old := f.last()
			f.set("m.room.topic", "", `{"topic":"set"}`)
			f.set("m.room.server_acl", "", `{"allow":["*"],"deny":["evil.test"]}`)
			f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
			for i := range 30 {
				f.deliver(f.message(old, "@bob:two.test", fmt.Sprint(i)))
			}
			for i := range 6 {
				var banned, topic, acl bool
				f.view(func(tx *store.Tx, r *store.Room) error {
					head, err := tx.Rooms.Head(r.NID)
					if err != nil {
						return err
					}
					m, err := tx.States.Map(head.State)
					if err != nil {
						return err
					}
					state, err := tx.States.Events(m)
					for _, ev := range state {
						banned = banned || ev.Membership() == "ban"
						topic = topic || ev.Type == "m.room.topic"
						acl = acl || ev.Type == "m.room.server_acl"
					}
					return err
				})
				if !banned || !topic || !acl {
					t.Fatalf("version %s, after %d messages of ours: ban %v, topic %v, access list %v", v, i, banned, topic, acl)
				}
				f.say("here")
			}
			f.check()
		}
	})
}

// TestCurrentStateIsThatOfAllEnds: whatever forks in whatever order, the current state is what all ends resolve to.
func TestCurrentStateIsThatOfAllEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		storetest.Check(t, func(t *rapid.T) {
			v := rapid.SampledFrom([]id.RoomVersion{"1", "2", "6", "10", "11", "12"}).Draw(t, "version")
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			f := fork(t, one, two, v)
			f.chaos(random)
			f.check()
		})
	})
}

// chaos has events of three users fork and meet.
func (f *forker) chaos(random *rand.Rand) {
	f.Helper()
	levels := func(bob int) {
		users := map[string]int{"@alice:one.test": 100, "@bob:two.test": bob}
		if v, _ := event.VersionOf(f.version()); v.PrivilegedCreators {
			delete(users, "@alice:one.test")
		}
		content, _ := json.Marshal(map[string]any{"users": users})
		f.set(event.TypePowerLevels, "", string(content))
	}
	levels(50)
	none, self, other := "", "@mallory:two.test", "@bob:two.test"
	theirs := []event.Proto{
		{Type: "m.room.message", Sender: "@mallory:two.test", Content: json.RawMessage(`{}`)},
		{Type: "m.room.message", Sender: "@bob:two.test", Content: json.RawMessage(`{}`)},
		{Type: "m.room.topic", StateKey: &none, Sender: "@bob:two.test"},
		{Type: event.TypeJoinRules, StateKey: &none, Sender: "@bob:two.test", Content: json.RawMessage(`{"join_rule":"invite"}`)},
		{Type: event.TypeMember, StateKey: &self, Sender: "@mallory:two.test"},
		{Type: event.TypeMember, StateKey: &self, Sender: "@bob:two.test", Content: json.RawMessage(`{"membership":"ban"}`)},
		{Type: event.TypeMember, StateKey: &other, Sender: "@bob:two.test", Content: json.RawMessage(`{"membership":"leave"}`)},
	}
	for i := range 5 {
		list := f.timeline()
		var forks []*event.Event
		for range random.IntN(5) {
			p := theirs[random.IntN(len(theirs))]
			if p.Content == nil {
				p.Content = json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d","topic":"%d"}`, i, random.IntN(100)))
			}
			forks = append(forks, f.forge(list[random.IntN(len(list))].ID, p))
		}
		random.Shuffle(len(forks), func(a, b int) { forks[a], forks[b] = forks[b], forks[a] })
		for _, ev := range forks {
			f.us.Receive(context.Background(), f.them.Server, f.room, []json.RawMessage{ev.JSON}) // refused ones are part of the game
		}
		switch random.IntN(6) {
		case 0:
			f.set("m.room.topic", "", fmt.Sprintf(`{"topic":"ours %d"}`, i))
		case 1:
			f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
		case 2:
			levels(50 * random.IntN(2))
		case 3, 4:
			f.say("hello")
		}
	}
}

// TestManyStatesAreFolded: a member sets something else in each of many forks of one old event. The work stays within
// bounds, and what was set before stays.
func TestManyStatesAreFolded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		old := f.last()
		f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
		self := "@bob:two.test"
		for i := range 130 {
			f.deliver(f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &self, Sender: "@bob:two.test", Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))}))
		}
		bounded := func(when string, all, states int) {
			t.Helper()
			if m, _, err := f.us.MembershipOf(context.Background(), f.room, "@mallory:two.test"); err != nil || m != "ban" {
				t.Errorf("%s, mallory's membership is %q, %v", when, m, err)
			}
			f.view(func(tx *store.Tx, r *store.Room) error {
				ends, err := tx.Rooms.Ends(r.NID)
				different := map[store.Extremity]bool{}
				for _, x := range ends {
					s := store.Extremity{State: x.State}
					if x.Key != 0 {
						s.NID = x.NID
					}
					different[s] = true
				}
				head, headErr := tx.Rooms.Head(r.NID)
				if n := len(head.Extremities); n > 20 || n+len(ends) != all || len(different) > states {
					t.Errorf("%s, %d further ends have %d states, the head has %d", when, len(ends), len(different), len(head.Extremities))
				}
				return errors.Join(err, headErr)
			})
		}
		bounded("with all forks", 131, 40)
		one = again(one)
		f.us = one
		f.say("again")
		bounded("after a restart", 122, 40)
		for i := range 20 {
			f.say(fmt.Sprint(i))
		}
		bounded("with all tied together", 1, 0)
		if _, err := one.Collect(context.Background(), time.Now()); err != nil {
			t.Error(err)
		}
		if _, err := one.Collect(context.Background(), time.Now().Add(2*time.Hour)); err != nil {
			t.Error(err)
		}
		again(one)
		f.say("still here")
	})
}

// TestMuchDifferenceIsFolded: messages fork from all over the past of a room of which many things were set since. What
// differs between their states counts for each of these, so that they are folded before they are many.
func TestMuchDifferenceIsFolded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
		const n = 900
		for i := range n {
			f.set("test.piece", fmt.Sprint(i), `{"set":true}`)
		}
		past := f.timeline()
		for i := range 24 {
			f.deliver(f.message(past[len(past)-n+i*n/24].ID, "@bob:two.test", fmt.Sprint(i)))
		}
		f.view(func(tx *store.Tx, r *store.Room) error {
			further, err := tx.Rooms.Ends(r.NID)
			head, headErr := tx.Rooms.Head(r.NID)
			states := map[store.StateNID]bool{}
			for _, x := range append(further, head.Extremities...) {
				states[x.State] = true
			}
			if len(states) > 12 || len(further)+len(head.Extremities) < 24 {
				t.Errorf("%d ends have %d states", len(further)+len(head.Extremities), len(states))
			}
			m, mapErr := tx.States.Map(head.State)
			state, stateErr := tx.States.Events(m)
			set := 0
			for _, ev := range state {
				if ev.Type == "test.piece" {
					set++
				}
			}
			if set != n {
				t.Errorf("%d of %d pieces are left", set, n)
			}
			return errors.Join(err, headErr, mapErr, stateErr)
		})
		f.us = again(one)
		for i := range 3 {
			f.say(fmt.Sprint(i))
		}
		if m, _, err := f.us.MembershipOf(context.Background(), f.room, "@mallory:two.test"); err != nil || m != "ban" {
			t.Errorf("mallory's membership is %q, %v", m, err)
		}
	})
}

// again is the engine as it is after a restart.
func again(e *room.Engine) *room.Engine {
	return &room.Engine{Store: e.Store, Server: e.Server, Key: e.Key, Remote: e.Remote, Log: e.Log, DefaultVersion: e.DefaultVersion}
}

// TestSendOnManyEnds compares sends in a room of 5,000 ends with those in a room of one.
func TestSendOnManyEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		few, many := fork(t, one, two, "11"), fork(t, one, two, "11")
		old := many.last()
		for i := range 25 {
			many.deliver(many.message(old, "@bob:two.test", fmt.Sprint(i)))
		}
		var further []store.Extremity
		many.view(func(tx *store.Tx, r *store.Room) (err error) { further, err = tx.Rooms.Ends(r.NID); return err })
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(many.room)
			if err != nil {
				return err
			}
			for i := range 5000 {
				x := further[0]
				x.NID, x.ID = store.EventNID(1<<40+i), id.EventID(fmt.Sprintf("$%043d", i))
				if err := tx.Rooms.AddEnds(r.NID, []store.Extremity{x}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		one = again(one)
		few.us, many.us = one, one
		took := map[*forker][]time.Duration{}
		for i := range 60 {
			for _, f := range []*forker{few, many} {
				began := time.Now()
				f.say(fmt.Sprint(i))
				took[f] = append(took[f], time.Since(began))
			}
		}
		for _, list := range took {
			slices.Sort(list)
		}
		if a, b := took[few][30], took[many][30]; b > 3*a {
			t.Errorf("a send on one end took %v, on 5,000 %v", a, b)
		}
	})
}

// TestForksMeetLocalSends has another server's forks arrive while a local user sends. Nothing is lost.
func TestForksMeetLocalSends(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		old := f.last()
		const n = 60
		forks := make([]*event.Event, n)
		name := "@bob:two.test"
		for i := range forks {
			if forks[i] = f.message(old, "@bob:two.test", fmt.Sprint(i)); i%3 == 0 {
				forks[i] = f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &name, Sender: "@bob:two.test", Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))})
			}
		}
		var wg sync.WaitGroup
		for sender := range 4 {
			wg.Go(func() {
				for i := range 40 {
					p := room.Message{Room: f.room, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(`{}`)}
					if none := ""; i%4 == 0 {
						p.Type, p.StateKey, p.Content = "m.room.topic", &none, json.RawMessage(fmt.Sprintf(`{"topic":"%d of %d"}`, i, sender))
					}
					if _, err := one.Send(context.Background(), p); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for _, ev := range forks {
			for _, r := range one.Receive(context.Background(), two.Server, f.room, []json.RawMessage{ev.JSON}) {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
		}
		wg.Wait()
		here := map[id.EventID]bool{}
		for _, ev := range f.timeline() {
			here[ev.ID] = true
		}
		for _, ev := range forks {
			if !here[ev.ID] {
				t.Errorf("%s is lost", ev.ID)
			}
		}
		f.check()
	})
}
