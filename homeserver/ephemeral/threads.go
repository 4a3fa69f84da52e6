package ephemeral

import (
	"bytes"
	"encoding/json"
	"fmt"

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

// ThreadOf is the thread that an event is in: MainThread or the ID of its root (Client-Server API, "Threaded read
// receipts").
func ThreadOf(tx *store.Tx, ev *store.Event) (string, error) {
	for range maxHops {
		relType, to := relation(ev)
		if relType == threadRelation {
			return string(to), nil
		}
		if relType == "" {
			break
		}
		parent, err := tx.Events.Get(to)
		if err != nil || parent == nil {
			return MainThread, err
		}
		ev = parent
	}
	return MainThread, nil
}

// inThread says whether a receipt for an event may name a thread. The root, and what relates to it, is in the main thread
// but clients name either. What was redacted no longer tells where it was.
func inThread(tx *store.Tx, ev *store.Event, thread string) (bool, error) {
	if thread == "" || ev.RedactedBy != 0 {
		return true, nil
	}
	if thread == MainThread {
		in, err := ThreadOf(tx, ev)
		return in == MainThread, err
	}
	for range maxHops {
		relType, to := relation(ev)
		switch {
		case relType == threadRelation:
			return string(to) == thread, nil
		case string(ev.ID) == thread || relType != "" && string(to) == thread:
			return true, nil
		case relType == "":
			return false, nil
		}
		parent, err := tx.Events.Get(to)
		if err != nil || parent == nil {
			return parent == nil, err // it cannot be told
		}
		ev = parent
	}
	return true, nil
}
