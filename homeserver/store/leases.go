package store

import "time"

// Leases say which process does work that one process at a time does.
type Leases struct{ tx *Tx }

// Take makes or keeps holder the one that does a work until a time; false if another one is, whose time is not over. A time
// further off than twice what is asked for is of a clock that was wrong.
func (s Leases) Take(name, holder string, now, until time.Time) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO leases (name, holder, until) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE
		SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until < ? OR leases.until > ?`,
		name, holder, until.UnixMilli(), now.UnixMilli(), until.Add(until.Sub(now)).UnixMilli())
	return n == 1, err
}

// Release ends a lease, if holder still has it.
func (s Leases) Release(name, holder string) error {
	_, err := s.tx.exec(`DELETE FROM leases WHERE name = ? AND holder = ?`, name, holder)
	return err
}
