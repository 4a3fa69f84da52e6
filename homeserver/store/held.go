package store

import (
	"cmp"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// HeldUnit is something that another server sent and that could not be taken in yet.
type HeldUnit struct {
	NID    int64
	Origin id.ServerName
	Room   id.RoomID  // empty if it is an ephemeral data unit
	Event  id.EventID // empty if it is none, or what it is called is not known yet
	JSON   []byte
	Tries  int // how often it was begun with since it came
}

// Held is what is to be taken in later.
type Held struct{ tx *Tx }

// HeldSize is how much waits.
type HeldSize struct{ Count, Bytes int64 }

// Sizes is how much waits of each server.
func (s Held) Sizes() (map[id.ServerName]HeldSize, error) {
	out := map[id.ServerName]HeldSize{}
	err := s.tx.query(func(rows *sql.Rows) error {
		var origin id.ServerName
		var size HeldSize
		if err := rows.Scan(&origin, &size.Count, &size.Bytes); err != nil {
			return err
		}
		out[origin] = size
		return nil
	}, `SELECT origin, COUNT(*), SUM(bytes) FROM held_units GROUP BY origin`)
	return out, err
}

// Drop removes the oldest units of a server until it has as many and as many bytes less as are given, or nothing. It
// returns how much that was.
func (s Held) Drop(origin id.ServerName, least HeldSize) (dropped HeldSize, err error) {
	var nids []int64
	err = s.tx.query(func(rows *sql.Rows) error {
		var nid, bytes int64
		if err := rows.Scan(&nid, &bytes); err != nil || dropped.Count >= least.Count && dropped.Bytes >= least.Bytes {
			return err
		}
		nids = append(nids, nid)
		dropped.Count++
		dropped.Bytes += bytes
		return nil
	}, `SELECT nid, bytes FROM held_units WHERE origin = ? ORDER BY nid`, string(origin))
	if err != nil {
		return HeldSize{}, err
	}
	return dropped, s.Delete(nids)
}

// Add has units wait that are due at a time. What waits already waits on.
func (s Held) Add(units []HeldUnit, due time.Time) error {
	for _, u := range units {
		sum := sha256.Sum256(append([]byte(string(u.Room)+" "), u.JSON...))
		_, err := s.tx.exec(`INSERT INTO held_units (nid, origin, digest, room_id, event_id, json, bytes, tries, due) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?) ON CONFLICT (origin, digest) DO NOTHING`,
			u.NID, string(u.Origin), hex.EncodeToString(sum[:]), string(u.Room), string(u.Event), u.JSON, len(u.JSON), due.UnixMilli())
		if err != nil {
			return fmt.Errorf("keep what waits: %w", err)
		}
	}
	return nil
}

// Take hands out units that are due, in the order in which they came: the oldest of each server are chosen first, so that no
// server's stand behind all those of another. That counts as a try, and nobody else gets them until a time. A unit is due, too, if it is more than longest
// away: the clock was wrong when that was written.
func (s Held) Take(now, until time.Time, longest time.Duration, limit int) ([]HeldUnit, error) {
	lock := ""
	if s.tx.db.postgres {
		lock = " FOR UPDATE OF h SKIP LOCKED"
	}
	var out []HeldUnit
	err := s.tx.query(func(rows *sql.Rows) error {
		var u HeldUnit
		if err := rows.Scan(&u.NID, &u.Origin, &u.Room, &u.JSON, &u.Tries); err != nil {
			return err
		}
		out = append(out, u)
		return nil
	}, `UPDATE held_units SET due = ?, tries = tries + 1
		WHERE nid IN (SELECT h.nid FROM held_units h JOIN (
			SELECT nid, row_number() OVER (PARTITION BY origin ORDER BY nid) AS place FROM held_units WHERE due <= ? OR due > ?
		) AS line ON line.nid = h.nid ORDER BY line.place, h.nid LIMIT ?`+lock+`)
		RETURNING nid, origin, room_id, json, tries`, until.UnixMilli(), now.UnixMilli(), now.Add(longest).UnixMilli(), limit)
	slices.SortFunc(out, func(a, b HeldUnit) int { return cmp.Compare(a.NID, b.NID) }) // RETURNING keeps no order
	return out, err
}

// Delay puts a unit off until a time. What it is called may be known by now, and an event that it follows and that is held, too.
func (s Held) Delay(u HeldUnit, follows id.EventID, due time.Time) error {
	_, err := s.tx.exec(`UPDATE held_units SET due = ?, event_id = ?, follows = ? WHERE nid = ?`, due.UnixMilli(), string(u.Event), string(follows), u.NID)
	return err
}

// Return makes units due at a time that were taken and not tried.
func (s Held) Return(nids []int64, due time.Time) error {
	if len(nids) == 0 {
		return nil
	}
	_, err := s.tx.exec(`UPDATE held_units SET due = ?, tries = tries - 1 WHERE nid IN (?)`, due.UnixMilli(), bun.In(nids))
	return err
}

// Followed makes the units of a room due at a time that wait for an event.
func (s Held) Followed(room id.RoomID, event id.EventID, due time.Time) error {
	if event == "" {
		return nil
	}
	_, err := s.tx.exec(`UPDATE held_units SET due = ? WHERE room_id = ? AND follows = ?`, due.UnixMilli(), string(room), string(event))
	return err
}

// Holds says whether one of some events of a room waits, or something that a server sent of it may be one.
func (s Held) Holds(room id.RoomID, events []id.EventID, origin id.ServerName) (held bool, err error) {
	if len(events) == 0 {
		return false, nil
	}
	_, err = s.tx.row([]any{&held}, `SELECT EXISTS (SELECT 1 FROM held_units WHERE room_id = ? AND (event_id IN (?) OR event_id = '' AND origin = ?))`,
		string(room), bun.In(events), string(origin))
	return held, err
}

// Hasten makes all units of a room due at a time.
func (s Held) Hasten(room id.RoomID, due time.Time) error {
	_, err := s.tx.exec(`UPDATE held_units SET due = ? WHERE room_id = ?`, due.UnixMilli(), string(room))
	return err
}

// Delete removes units that are taken in, refused, or given up.
func (s Held) Delete(nids []int64) error {
	if len(nids) == 0 {
		return nil
	}
	_, err := s.tx.exec(`DELETE FROM held_units WHERE nid IN (?)`, bun.In(nids))
	return err
}

// Next is when the first unit is due; false if nothing waits. See Take for longest.
func (s Held) Next(now time.Time, longest time.Duration) (time.Time, bool, error) {
	var due sql.NullInt64
	_, err := s.tx.row([]any{&due}, `SELECT MIN(CASE WHEN due > ? THEN 0 ELSE due END) FROM held_units`, now.Add(longest).UnixMilli())
	return time.UnixMilli(due.Int64), due.Valid, err
}
