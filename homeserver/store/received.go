package store

import (
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Received are the transactions of other servers with what was answered.
type Received struct{ tx *Tx }

// Answer is what was answered to a transaction; false if it is new.
func (s Received) Answer(origin id.ServerName, txnID string) ([]byte, bool, error) {
	var answer []byte
	ok, err := s.tx.row([]any{&answer}, `SELECT answer FROM received_transactions WHERE origin = ? AND txn_id = ?`, string(origin), txnID)
	return answer, ok, err
}

// Insert remembers an answer; the first one stays.
func (s Received) Insert(origin id.ServerName, txnID string, answer []byte, at time.Time) error {
	_, err := s.tx.exec(`INSERT INTO received_transactions (origin, txn_id, answer, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(origin), txnID, answer, at.UnixMilli())
	return err
}

// Prune forgets what was answered before a time, at most limit transactions, and returns how many.
func (s Received) Prune(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "received_transactions", `at < ?`), before.UnixMilli(), limit)
}
