package store

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Filters are the filters that clients have defined.
type Filters struct{ tx *Tx }

// Put writes a filter, unless the user has one with the same hash, and returns its number. Only the
// newest keep filters of a user stay.
func (s Filters) Put(user id.UserID, hash []byte, content json.RawMessage, keep int64) (int64, error) {
	var n int64
	ok, err := s.tx.row([]any{&n}, `SELECT filter_id FROM filters WHERE user_id = ? AND hash = ?`, string(user), hash)
	if ok || err != nil {
		return n, err
	}
	if _, err = s.tx.row([]any{&n}, `SELECT coalesce(max(filter_id), 0) + 1 FROM filters WHERE user_id = ?`, string(user)); err != nil {
		return 0, err
	}
	if _, err = s.tx.exec(`INSERT INTO filters (user_id, filter_id, hash, content) VALUES (?, ?, ?, ?)`, string(user), n, hash, string(content)); err != nil {
		return 0, err
	}
	_, err = s.tx.exec(`DELETE FROM filters WHERE user_id = ? AND filter_id <= ?`, string(user), n-keep)
	return n, err
}

// Get reads a filter; false if there is none.
func (s Filters) Get(user id.UserID, n int64) (json.RawMessage, bool, error) {
	var content string
	ok, err := s.tx.row([]any{&content}, `SELECT content FROM filters WHERE user_id = ? AND filter_id = ?`, string(user), n)
	return json.RawMessage(content), ok, err
}
