package store

import (
	"database/sql"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Destination is how well another server can be reached. Times are milliseconds since 1970.
type Destination struct {
	Server       id.ServerName
	FailingSince int64 // 0: all is well
	RetryAt      int64
	Failures     int // in a row
}

// Destinations are the servers that could not be reached lately.
type Destinations struct{ tx *Tx }

// Failing lists the servers that could not be reached the last time.
func (s Destinations) Failing() ([]Destination, error) {
	var out []Destination
	err := s.tx.query(func(rows *sql.Rows) error {
		var d Destination
		if err := rows.Scan(&d.Server, &d.FailingSince, &d.RetryAt, &d.Failures); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, `SELECT name, failing_since, retry_at, failures FROM destinations WHERE failing_since > 0 ORDER BY name`)
	return out, err
}

// SetFailing writes how a server fails.
func (s Destinations) SetFailing(d Destination) error {
	_, err := s.tx.exec(`INSERT INTO destinations (name, failing_since, retry_at, failures) VALUES (?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET failing_since = excluded.failing_since, retry_at = excluded.retry_at, failures = excluded.failures`,
		string(d.Server), d.FailingSince, d.RetryAt, d.Failures)
	return err
}

// SetWell forgets that a server failed.
func (s Destinations) SetWell(server id.ServerName) error {
	_, err := s.tx.exec(`DELETE FROM destinations WHERE name = ?`, string(server))
	return err
}

// Prune forgets servers that have not been tried since a time and for which nothing waits, at most limit, and returns how many.
func (s Destinations) Prune(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "destinations", `retry_at < ? AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.destination = destinations.name)`),
		before.UnixMilli(), limit)
}
