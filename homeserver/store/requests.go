package store

import (
	"database/sql"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// RequestKey names a request that a client may repeat.
type RequestKey struct {
	User   id.UserID
	Device id.DeviceID
	Scope  string // what the transaction ID is unique within: the endpoint, and the room if there is one
	TxnID  string
	// Answered is closed once the answer has gone out to the client, or was given up; nil if nobody will say so.
	Answered <-chan struct{}
}

// Requests are the transaction IDs of clients' requests with what was answered.
type Requests struct{ tx *Tx }

// Answer is what was answered to a request; false if it is new.
func (s Requests) Answer(k RequestKey) (string, bool, error) {
	var answer string
	ok, err := s.tx.row([]any{&answer}, `SELECT answer FROM transactions WHERE user_id = ? AND device_id = ? AND scope = ? AND txn_id = ?`,
		string(k.User), string(k.Device), k.Scope, k.TxnID)
	return answer, ok, err
}

// Insert remembers an answer; false if the request was answered before.
func (s Requests) Insert(k RequestKey, answer string, at time.Time) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO transactions (user_id, device_id, scope, txn_id, answer, at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(k.User), string(k.Device), k.Scope, k.TxnID, answer, at.UnixMilli())
	if n == 1 {
		s.tx.after = append(s.tx.after, func() { s.tx.db.cache.requests.Set(answer, k) })
	}
	return n == 1, err
}

// Recent is the request of a device that was answered with an event, as far as memory has it: the transaction ID that
// its client gave.
func (s Requests) Recent(event id.EventID) (RequestKey, bool) {
	return s.tx.db.cache.requests.GetIfPresent(string(event))
}

// TxnIDs finds the transaction IDs of those requests of a device that were answered with some events.
func (s Requests) TxnIDs(user id.UserID, device id.DeviceID, events []id.EventID) (map[id.EventID]string, error) {
	out := map[id.EventID]string{}
	for chunk := range slices.Chunk(events, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var e id.EventID
			var txn string
			if err := rows.Scan(&e, &txn); err != nil {
				return err
			}
			out[e] = txn
			return nil
		}, `SELECT answer, txn_id FROM transactions WHERE user_id = ? AND device_id = ? AND answer IN (?)`, string(user), string(device), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Prune forgets what was answered before a time, at most limit requests, and returns how many.
func (s Requests) Prune(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "transactions", `at < ?`), before.UnixMilli(), limit)
}
