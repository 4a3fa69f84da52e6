package cli

import (
	"encoding/json"
	"fmt"
	"strings"

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
// readable is kept.
func (s *session) keep(room id.RoomID, messages []message) error {
	return s.profile.vault.Update(func(tx *vault.Tx) error {
		for _, m := range messages {
			if m.ID == "" || m.undecryptable || m.State == stateFailed {
				continue
			}
			data, err := json.Marshal(m)
			if err != nil {
				return fmt.Errorf("encoding the history: %w", err)
			}
			tx.Put(fmt.Sprintf("%s%016d %s", historyKey(room), max(m.Time, 0), m.ID), data)
		}
		kept := tx.Keys(historyKey(room))
		for _, old := range kept[:max(0, len(kept)-maxKept)] {
			tx.Delete(old)
		}
		return nil
	})
}

// showKept shows the newest messages of a room's history.
func (s *session) showKept(arg string, limit int) error {
	room, err := id.ParseRoomID(arg)
	if err != nil {
		return fail(exitUsage, `without the network only room IDs work: "securecomm rooms" shows them`, "%w", err)
	}
	kept := s.profile.vault.Keys(historyKey(room))
	for _, key := range kept[max(0, len(kept)-limit):] {
		var m message
		if _, err := s.profile.load(key, &m); err != nil {
			return err
		}
		if err := s.app.show(m); err != nil {
			return err
		}
	}
	if len(kept) == 0 {
		s.app.note("Nothing was kept of this room: see \"securecomm read --help\".")
	}
	return nil
}
