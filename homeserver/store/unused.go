package store

import (
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/uptrace/bun"
)

// Collection of states. Unused notes states that may be left without an event, position, head or child; MarkUnused, the first
// phase, marks those that are; DeleteUnused, the second, deletes those that still are after a time. The time is for
// readers who found a state's number before and look it up in another transaction.
//
// A writer cannot lose a state that it builds on. What replaces a head by SwapHead builds on a state that was the
// head until its commit, which every transaction sees as in use before and after. All other writers hold the state
// with Hold, as Insert does with the parent: they either come before the deletion, which then finds the state in use,
// or find it gone, which is an error that is cured by reading the room anew.

// ErrStateGone says that a state was deleted before something could be built on it.
var ErrStateGone = errors.New("the state was unused and has been deleted")

// Unused notes states that perhaps nothing refers to any longer.
func (s States) Unused(nids ...StateNID) error {
	for _, nid := range nids {
		if _, err := s.tx.exec(`INSERT INTO unused_states (nid) VALUES (?) ON CONFLICT DO NOTHING`, int64(nid)); err != nil {
			return err
		}
	}
	return nil
}

// Hold makes sure that a state is there, and stays there at least until this transaction ends. Who lets an event
// point to a state that is not the head swapped in the same update has to hold it. Errors: ErrStateGone.
func (s States) Hold(nid StateNID) error {
	if nid == 0 {
		return nil
	}
	var one int
	found, err := s.tx.row([]any{&one}, `SELECT 1 FROM state_snapshots WHERE nid = ?`+shareRow(s.tx.db.postgres), int64(nid))
	if err == nil && !found {
		err = ErrStateGone
	}
	return err
}

// ListUnused lists states that Unused noted, at most limit: those that are not marked yet, or those that were marked at or
// before a time unless it is zero.
func (s States) ListUnused(marked time.Time, limit int) ([]StateNID, error) {
	where := `marked_at = ?`
	at := int64(0)
	if !marked.IsZero() {
		where, at = `marked_at > 0 AND marked_at <= ?`, marked.UnixMilli()
	}
	return s.numbers(`SELECT nid FROM unused_states WHERE `+where+` ORDER BY marked_at, nid LIMIT ?`, at, limit)
}

// MarkUnused marks those of some states that nothing refers to, and takes the others off the list.
func (s States) MarkUnused(nids []StateNID, now time.Time) error {
	if err := s.unlistUsed(nids); err != nil {
		return err
	}
	_, err := s.tx.exec(`UPDATE unused_states SET marked_at = ? WHERE nid IN (?)`, now.UnixMilli(), bun.In(plainStates(nids)))
	return err
}

// DeleteUnused deletes those of some states that nothing refers to, takes the others off the list, and lists the
// parents of those deleted. States that another process holds at the moment are left for another time. It returns how
// many were deleted.
func (s States) DeleteUnused(nids []StateNID) (int, error) {
	// Locked before it is looked for what refers to them: what others build on them since then waits, and fails.
	free, err := s.numbers(`SELECT nid FROM state_snapshots WHERE nid IN (?) ORDER BY nid`+claimRows(s.tx.db.postgres), bun.In(plainStates(nids)))
	if err != nil {
		return 0, err
	}
	used, err := s.used(free)
	if err != nil {
		return 0, err
	}
	gone := slices.DeleteFunc(free, func(n StateNID) bool { return slices.Contains(used, n) })
	if len(gone) > 0 {
		parents, err := s.numbers(`DELETE FROM state_snapshots WHERE nid IN (?) RETURNING parent`, bun.In(plainStates(gone)))
		if err != nil {
			return 0, err
		}
		if err := s.Unused(slices.DeleteFunc(parents, func(n StateNID) bool { return n == 0 })...); err != nil {
			return 0, err
		}
		s.forget(gone)
	}
	return len(gone), s.unlistUsed(nids)
}

// unlistUsed takes those of some states that are in use, or gone, off the list of unused ones.
func (s States) unlistUsed(nids []StateNID) error {
	used, err := s.used(nids)
	if err != nil {
		return err
	}
	if len(used) > 0 {
		if _, err := s.tx.exec(`DELETE FROM unused_states WHERE nid IN (?)`, bun.In(plainStates(used))); err != nil {
			return err
		}
	}
	_, err = s.tx.exec(`DELETE FROM unused_states WHERE nid IN (?) AND NOT EXISTS (SELECT 1 FROM state_snapshots s WHERE s.nid = unused_states.nid)`,
		bun.In(plainStates(nids)))
	return err
}

// used finds those of some states that an event, a position, a head, an end or a child refers to.
func (s States) used(nids []StateNID) ([]StateNID, error) {
	if len(nids) == 0 {
		return nil, nil
	}
	return s.numbers(`SELECT s.nid FROM state_snapshots s WHERE s.nid IN (?) AND (
		EXISTS (SELECT 1 FROM room_heads h WHERE h.room_nid = s.room_nid AND h.state = s.nid)
		OR EXISTS (SELECT 1 FROM further_ends f WHERE f.state = s.nid)
		OR EXISTS (SELECT 1 FROM resolved_states r WHERE r.state = s.nid)
		OR EXISTS (SELECT 1 FROM events e WHERE e.state_before = s.nid AND e.state_before <> 0)
		OR EXISTS (SELECT 1 FROM state_snapshots c WHERE c.parent = s.nid AND c.parent <> 0))`, bun.In(plainStates(nids)))
}

// forget drops states from memory once they are deleted for good.
func (s States) forget(nids []StateNID) {
	s.tx.AfterCommit(func() {
		for _, n := range nids {
			s.tx.db.cache.states.Invalidate(n)
		}
	})
}

func (s States) numbers(query string, args ...any) ([]StateNID, error) {
	var out []StateNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n StateNID
		if err := rows.Scan(&n); err != nil {
			return err
		}
		out = append(out, n)
		return nil
	}, query, args...)
	return out, err
}

func plainStates(nids []StateNID) []int64 {
	out := make([]int64, len(nids))
	for i, n := range nids {
		out[i] = int64(n)
	}
	return out
}
