package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const byThread = `{"room":{"timeline":{"unread_thread_notifications":true}}}`

// reader is a client that keeps what is unread in a room as it is told.
type reader struct {
	client
	name  string
	known joined
}

// check compares what the client was told with what a server counts that has just started.
func (r *reader) check(roomID id.RoomID, anew *world) string {
	if j, told := r.next().Rooms.Join[roomID]; told {
		r.known = j
	}
	j, in := anew.client(r.name, byThread).next().Rooms.Join[roomID]
	if in && (j.Unread != r.known.Unread || !reflect.DeepEqual(j.Threads, r.known.Threads)) {
		return fmt.Sprintf("%s was told %+v, %+v; counted anew it is %+v, %+v", r.name, r.known.Unread, r.known.Threads, j.Unread, j.Threads)
	}
	return ""
}

// TestUnreadCountedAnew: what is unread is the same whether it was counted event by event or all at once: however many events
// there are and however large, whoever comes or goes, whatever is read or redacted.
func TestUnreadCountedAnew(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, round := newWorld(t, db), 0
		storetest.Check(t, func(rt *rapid.T) {
			round++
			countRandomly(rt, w, fmt.Sprint(round))
		})
	})
}

// countRandomly is one story of a room, with two who read: one whose own rules ask how many are in the room, and one who is
// notified only of mentions, unless they are two.
func countRandomly(rt *rapid.T, w *world, suffix string) {
	events, size := rapid.IntRange(3, 15).Draw(rt, "events looked at"), rapid.IntRange(1000, 9000).Draw(rt, "bytes looked at")
	w.sync.LookBack(events, size)
	alice, bob, carol, dave := "alice"+suffix, "bob"+suffix, "carol"+suffix, "dave"+suffix
	r := w.create(alice, room.Creation{})
	w.state(r, alice, "m.room.power_levels", "", `{"users_default":100}`)
	set := pushrule.Default(user(bob))
	set.Override = append([]pushrule.Rule{{
		ID: "many", Enabled: true, Actions: json.RawMessage(`["notify",{"set_tweak":"highlight"}]`),
		Conditions: json.RawMessage(`[{"kind":"room_member_count","is":">3"},{"kind":"event_match","key":"content.body","pattern":"*l*"}]`),
	}}, set.Override...)
	w.ruleset(bob, set)
	set = pushrule.Default(user(carol))
	for i := range set.Underride {
		if set.Underride[i].ID == ".m.rule.message" {
			set.Underride[i].Actions = json.RawMessage(`[]`)
		}
	}
	w.ruleset(carol, set)
	readers := []*reader{{client: *w.client(bob, byThread), name: bob}, {client: *w.client(carol, byThread), name: carol}}
	w.join(r, bob)

	sent, all := []id.EventID{w.say(r, alice, "hello")}, []string{alice, bob, carol, dave}
	members := map[string]bool{alice: true, bob: true}
	act := func(who string, membership string) {
		if w.rooms.SetMembership(context.Background(), room.Change{Room: r, Sender: user(who), Target: user(who), Membership: membership}) == nil {
			members[who] = membership == "join"
		}
	}
	look := func() {
		for _, reader := range readers {
			anew := newWorld(w.t, w.db)
			anew.sync.LookBack(events, size)
			if problem := reader.check(r, anew); problem != "" {
				rt.Fatal(problem)
			}
		}
	}
	say := func() {
		who := rapid.SampledFrom([]string{alice, alice, alice, dave, bob, carol}).Draw(rt, "who")
		if !members[who] {
			return
		}
		kind := rapid.SampledFrom([]string{"m.text", "m.text", "m.text", "m.notice"}).Draw(rt, "kind")
		text := rapid.SampledFrom([]string{"hello", "hi", "for " + bob, "for " + carol, strings.Repeat("x", 1000)}).Draw(rt, "text")
		content := fmt.Sprintf(`{"msgtype":%q,"body":%q`, kind, text)
		if way := rapid.SampledFrom([]string{"", "", "m.thread", "m.reference", "m.replace"}).Draw(rt, "way"); way != "" {
			to := rapid.SampledFrom(sent[max(0, len(sent)-6):]).Draw(rt, "to")
			content += fmt.Sprintf(`,"m.relates_to":{"rel_type":%q,"event_id":%q}`, way, to)
		}
		e, err := w.rooms.Send(context.Background(), room.Message{Room: r, Sender: user(who), Type: "m.room.message", Content: json.RawMessage(content + "}")})
		if err == nil { // relations that make no sense are refused
			sent = append(sent, e)
		}
	}
	actions := []func(){
		look, look, say, say, say, say, say,
		func() {
			who := rapid.SampledFrom(all[1:]).Draw(rt, "who moves")
			act(who, map[bool]string{true: "leave", false: "join"}[members[who]])
		},
		func() {
			sent = append(sent, w.state(r, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, len(sent))))
		},
		func() {
			who := rapid.SampledFrom(all[1:3]).Draw(rt, "who reads")
			thread := rapid.SampledFrom(slices.Concat([]string{"", "main"}, ids(sent[max(0, len(sent)-8):]))).Draw(rt, "thread")
			mark := ephemeral.Mark{Type: ephemeral.Read, Event: rapid.SampledFrom(sent[max(0, len(sent)-8):]).Draw(rt, "up to"), Thread: thread}
			_ = w.eph.SetMarks(context.Background(), r, user(who), mark) // what is not in the thread is refused
		},
		func() {
			target := rapid.SampledFrom(sent[max(0, len(sent)-12):]).Draw(rt, "redacted")
			_, err := w.rooms.Redact(context.Background(), r, user(alice), target, json.RawMessage(`{}`), nil)
			w.must(err)
		},
	}
	for range rapid.IntRange(5, 60).Draw(rt, "steps") {
		rapid.SampledFrom(actions).Draw(rt, "action")()
	}
	look()
}

func ids(list []id.EventID) []string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = string(list[i])
	}
	return out
}

// TestUnreadStays: with the limits that hold for everybody, what is unread does not change by a restart, nor by somebody who
// comes.
func TestUnreadStays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.sync.LookBack(100, 4<<20)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		set := pushrule.Default(user("bob"))
		for i := range set.Underride {
			if set.Underride[i].ID == ".m.rule.message" {
				set.Underride[i].Actions = json.RawMessage(`[]`)
			}
		}
		w.ruleset("bob", set)
		bob := &reader{client: *w.client("bob", byThread), name: "bob"}
		bob.next()
		check := func(step string, want int) {
			t.Helper()
			anew := newWorld(t, db)
			anew.sync.LookBack(100, 4<<20)
			if problem := bob.check(r, anew); problem != "" || bob.known.Unread.All != want {
				t.Errorf("%s: %d are unread, not %d; %s", step, bob.known.Unread.All, want, problem)
			}
		}
		for range 40 {
			w.say(r, "alice", "x")
		}
		check("two in the room", 40)
		w.join(r, "carol")
		check("a third one came", 40)
		w.say(r, "alice", "x")
		check("another message", 40)
		for i := range 70 {
			w.send(r, "alice", "m.room.message", `{"msgtype":"m.notice","body":"x"}`)
			if i%10 == 0 {
				bob.check(r, w)
			}
		}
		check("notices behind them", 28)
	})
}

// TestUnreadInThreadsAfterRedaction: once an event is redacted that was in a thread, nobody knows any more that what relates to
// it is: neither who has counted it there.
func TestUnreadInThreadsAfterRedaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		bob := &reader{client: *w.client("bob", byThread), name: "bob"}
		bob.next()
		relating := func(relType string, to id.EventID) id.EventID {
			return w.send(r, "alice", "m.room.message", fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":%q,"event_id":%q}}`, relType, to))
		}
		root := w.say(r, "alice", "x")
		answer := relating("m.thread", root)
		relating("m.reference", answer)
		check := func(step string, main, thread int) {
			t.Helper()
			problem := bob.check(r, newWorld(t, db))
			if got := bob.known; problem != "" || got.Unread.All != main || got.Threads[string(root)].All != thread {
				t.Errorf("%s: unread are %+v, %+v; %s", step, got.Unread, got.Threads, problem)
			}
		}
		check("at first", 1, 2)
		_, err := w.rooms.Redact(context.Background(), r, user("alice"), answer, json.RawMessage(`{}`), nil)
		w.must(err)
		check("after the redaction", 2, 0)
	})
}
