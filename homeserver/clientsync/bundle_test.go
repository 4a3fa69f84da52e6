package clientsync_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestBundledAggregations: only a client that missed events is told what relates to those that it gets.
func TestBundledAggregations(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		few, all := w.client("bob", `{"room":{"timeline":{"limit":2}}}`), w.client("bob", "")
		few.next()
		all.next()
		root := w.say(r, "alice", "root")
		relate := func(kind string) string {
			return string(w.send(r, "alice", "m.room.message", fmt.Sprintf(
				`{"msgtype":"m.text","body":"x","m.new_content":{},"m.relates_to":{"rel_type":%q,"event_id":%q}}`, kind, root)))
		}
		relate("m.thread")
		edited := w.say(r, "alice", "edited")
		edit := string(w.send(r, "alice", "m.room.message", fmt.Sprintf(
			`{"msgtype":"m.text","body":"y","m.new_content":{"body":"y"},"m.relates_to":{"rel_type":"m.replace","event_id":%q}}`, edited)))

		j := few.next().Rooms.Join[r].Timeline
		if !j.Limited || len(j.Events) != 2 || j.Events[0].ID != edited {
			t.Fatalf("the timeline with a gap is %+v", j)
		}
		if got := j.Events[0].Unsigned; got.Relations.Replace.ID != edit || got.Membership != "join" {
			t.Errorf("behind a gap, the edited event has %+v", got)
		}
		if got := j.Events[1].Unsigned.Relations; got.Replace.ID != "" {
			t.Errorf("the edit has %+v", got)
		}
		j = all.next().Rooms.Join[r].Timeline
		if j.Limited || len(j.Events) != 4 {
			t.Fatalf("the timeline without a gap is %+v", j)
		}
		for _, e := range j.Events {
			if e.Unsigned.Relations.Replace.ID != "" {
				t.Errorf("without a gap, %s has an aggregation", e.ID)
			}
		}
		few = w.client("bob", `{"room":{"timeline":{"limit":4}}}`)
		if e := few.next().Rooms.Join[r].Timeline.Events[0]; e.ID != root || e.Unsigned.Relations.Thread.Count != 1 {
			t.Errorf("in a first sync, the root of a thread is %+v", e)
		}
	})
}

// TestBundlesOfAllRoomsAreBounded: what is bundled with the events of many rooms has one bound.
func TestBundlesOfAllRoomsAreBounded(t *testing.T) {
	const rooms, messages = 4, 41
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, large := newWorld(t, db), strings.Repeat("x", 50_000)
		for range rooms {
			r := w.create("alice", room.Creation{})
			for range messages {
				edited := w.send(r, "alice", "m.room.message", `{"msgtype":"m.image","body":"x","url":"mxc://one.test/x"}`)
				w.send(r, "alice", "m.room.message", fmt.Sprintf(
					`{"body":"","m.new_content":{"body":%q},"m.relates_to":{"rel_type":"m.replace","event_id":%q}}`, large, edited))
			}
		}
		shown, edits := 0, 0
		for _, j := range w.client("alice", `{"room":{"timeline":{"limit":40,"contains_url":true}}}`).next().Rooms.Join {
			for _, e := range j.Timeline.Events {
				shown++
				if e.Unsigned.Relations.Replace.ID != "" {
					edits++
				}
			}
		}
		if shown != rooms*40 || edits*len(large) > 6<<20 || edits < 60 {
			t.Errorf("%d events are shown, %d with an edit of %d bytes", shown, edits, len(large))
		}
	})
}
