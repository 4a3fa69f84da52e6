package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

// maxKept is how many messages of a room a history keeps; the oldest make room for new ones.
const maxKept = 2000

// historyKey sorts by time. Room IDs have no spaces, so that no room's history is part of another's.
func historyKey(room id.RoomID) string {
	return recordHistory + strings.ReplaceAll(string(room), " ", "") + " "
}

// keep adds messages to the history of a room, which is encrypted as everything in the vault. Only what was
// readable is kept, each event once: one that was sent from here has another time when the server shows it.
func (s *session) keep(room id.RoomID, messages []message) error {
	return s.profile.vault.Update(func(tx *vault.Tx) error {
		before := keysByEvent(tx.Keys(historyKey(room)))
		for _, m := range messages {
			if m.ID == "" || m.undecryptable || m.State == stateFailed {
				continue
			}
			if m.State == stateSent {
				m.State = stateReceived // by the server, which has it now
			}
			data, err := json.Marshal(m)
			if err != nil {
				return fmt.Errorf("encoding the history: %w", err)
			}
			if old := before[m.ID]; old != "" {
				tx.Delete(old)
			}
			before[m.ID] = fmt.Sprintf("%s%016d %s", historyKey(room), max(m.Time, 0), m.ID)
			tx.Put(before[m.ID], data)
		}
		kept := tx.Keys(historyKey(room))
		for _, old := range kept[:max(0, len(kept)-maxKept)] {
			tx.Delete(old)
		}
		return nil
	})
}

// keysByEvent finds the records of a history by their events.
func keysByEvent(records []string) map[id.EventID]string {
	found := make(map[id.EventID]string, len(records))
	for _, record := range records {
		rest := strings.TrimPrefix(record, recordHistory)
		if parts := strings.SplitN(rest, " ", 3); len(parts) == 3 { // room, time, event
			found[id.EventID(parts[2])] = record
		}
	}
	return found
}

// redactedBy is the event of which an event shows that it was redacted: itself, or another one (Client-Server API,
// m.room.redaction). It is empty if there is none.
func redactedBy(e client.Event) id.EventID {
	if len(e.Unsigned.RedactedBecause) > 0 {
		return e.ID
	}
	var redaction struct {
		Redacts id.EventID `json:"redacts"` // before room version 11
		Content struct {
			Redacts id.EventID `json:"redacts"`
		} `json:"content"`
	}
	if e.Type != "m.room.redaction" || e.StateKey != nil || json.Unmarshal(e.Raw, &redaction) != nil {
		return ""
	}
	return cmp.Or(redaction.Content.Redacts, redaction.Redacts)
}

// forget takes what was redacted out of the history, and says so: the servers could have made that up.
func (s *session) forget(room id.RoomID, redacted ...id.EventID) error {
	if len(redacted) == 0 {
		return nil
	}
	return s.profile.vault.Update(func(tx *vault.Tx) error {
		kept := keysByEvent(tx.Keys(historyKey(room)))
		for _, event := range redacted {
			if record := kept[event]; record != "" {
				tx.Delete(record)
				delete(kept, event)
				s.app.note("%s was redacted, and is not kept any longer.", event)
			}
		}
		return nil
	})
}

// kept is the history of a room, the oldest first.
func (s *session) kept(room id.RoomID) ([]message, error) {
	var messages []message
	for _, record := range s.profile.vault.Keys(historyKey(room)) {
		var m message
		if _, err := s.profile.load(record, &m); err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// showKept shows the newest messages of a room's history, as they were shown when they were kept.
func (s *session) showKept(arg string, limit int, all bool) error {
	room, err := id.ParseRoomID(arg)
	if err != nil {
		return fail(exitUsage, `without the network only room IDs work: "securecomm rooms" shows them`, "%w", err)
	}
	kept, err := s.kept(room)
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		s.app.note("Nothing was kept of this room: see \"securecomm read --help\".")
	}
	messages := slices.DeleteFunc(slices.Clone(kept), func(m message) bool { return !all && !m.said() })
	messages = messages[max(0, len(messages)-limit):]
	return s.app.showAll(messages, gather(messages, kept))
}
