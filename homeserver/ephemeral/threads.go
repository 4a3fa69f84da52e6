package ephemeral

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxHops is how far relationships are followed to find the thread that an event is in.
const maxHops = 3

const threadRelation = "m.thread"

var errOtherThread = fmt.Errorf("%w: the event is not in the thread of thread_id", ErrInvalid)

// relation is what an event relates to; both are empty if to nothing.
func relation(ev *store.Event) (relType string, to id.EventID) {
	if ev.StateKey != nil || !bytes.Contains(ev.Content, []byte(`"m.relates_to"`)) {
		return "", ""
	}
	var content struct {
		RelatesTo struct {
			RelType string     `json:"rel_type"`
			EventID id.EventID `json:"event_id"`
		} `json:"m.relates_to"`
	}
	r := &content.RelatesTo
	if json.Unmarshal(ev.Content, &content) != nil || r.EventID == "" || r.RelType == "" {
		return "", ""
	}
	return r.RelType, r.EventID
}

// ThreadsOf are the threads that events of one room are in, by their numbers: MainThread or the ID of the root (Client-Server
// API, "Threaded read receipts"). What comes later than an event does not change where it is.
func ThreadsOf(tx *store.Tx, events []*store.Event) (map[store.EventNID]string, error) {
	threads := make(map[store.EventNID]string, len(events))
	open := map[*store.Event]id.EventID{} // what they relate to, by way of others
	follow := func(ev *store.Event, relType string, to id.EventID) {
		if relType == threadRelation {
			threads[ev.NID] = string(to)
		} else if relType != "" {
			open[ev] = to
		}
	}
	for _, ev := range events {
		threads[ev.NID] = MainThread
		relType, to := relation(ev)
		follow(ev, relType, to)
	}
	for hop := 1; hop < maxHops && len(open) > 0; hop++ {
		parents, err := tx.Relations.Of(events[0].Room, slices.Compact(slices.Sorted(maps.Values(open))))
		if err != nil {
			return nil, err
		}
		before := open
		open = map[*store.Event]id.EventID{}
		for ev, to := range before {
			if parent := parents[to]; parent.Position < ev.Position {
				follow(ev, parent.RelType, parent.Parent)
			}
		}
	}
	return threads, nil
}

// inThread says whether a receipt for an event may name a thread. The root, and what relates to it, is in the main thread
// but clients name either. What was redacted no longer tells where it was.
func inThread(tx *store.Tx, ev *store.Event, thread string) (bool, error) {
	if thread == "" || ev.RedactedBy != 0 {
		return true, nil
	}
	if thread == MainThread {
		in, err := ThreadsOf(tx, []*store.Event{ev})
		return in[ev.NID] == MainThread, err
	}
	relType, to := relation(ev)
	for at, hops := ev.ID, 0; ; {
		switch {
		case relType == threadRelation:
			return string(to) == thread, nil
		case string(at) == thread || relType != "" && string(to) == thread:
			return true, nil
		case relType == "":
			return false, nil
		}
		if hops++; hops == maxHops {
			return true, nil
		}
		parents, err := tx.Relations.Of(ev.Room, []id.EventID{to})
		parent, known := parents[to]
		if err != nil || !known {
			return !known && err == nil, err // it cannot be told
		}
		at, relType, to = to, parent.RelType, parent.Parent
	}
}
