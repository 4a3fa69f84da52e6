package store

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Filters are the filters that clients have defined.
type Filters struct{ tx *Tx }

// Put writes a filter, unless the user has one with the same hash, and returns its number. The number is of the hash, so
// that a client which knows it always means this filter by it, whatever has been restored meanwhile. Only the newest keep
// filters of a user stay, of those as many as have size bytes together.
func (s Filters) Put(user id.UserID, hash []byte, content json.RawMessage, at time.Time, keep, size int64) (int64, error) {
	var n int64
	ok, err := s.tx.row([]any{&n}, `SELECT filter_id FROM filters WHERE user_id = ? AND hash = ?`, string(user), hash)
	if ok || err != nil {
		return n, err
	}
	n = int64(binary.BigEndian.Uint64(hash) >> 1)
	if _, err = s.tx.exec(`INSERT INTO filters (user_id, filter_id, hash, content, at) VALUES (?, ?, ?, ?, ?)`,
		string(user), n, hash, string(content), at.UnixMilli()); err != nil {
		return 0, err
	}
	_, err = s.tx.exec(`DELETE FROM filters WHERE user_id = ? AND filter_id IN (SELECT filter_id FROM (
		SELECT filter_id, row_number() OVER newest AS place, sum(octet_length(content)) OVER newest AS bytes
		FROM filters WHERE user_id = ? WINDOW newest AS (ORDER BY at DESC, filter_id DESC)) AS f WHERE (place > ? OR bytes > ?) AND filter_id <> ?)`,
		string(user), string(user), keep, size, n)
	return n, err
}

// Get reads a filter; false if there is none.
func (s Filters) Get(user id.UserID, n int64) (json.RawMessage, bool, error) {
	var content string
	ok, err := s.tx.row([]any{&content}, `SELECT content FROM filters WHERE user_id = ? AND filter_id = ?`, string(user), n)
	return json.RawMessage(content), ok, err
}
