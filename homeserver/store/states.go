package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/event"
)

// StateNID is the number of a state snapshot; 0 is the empty state.
type StateNID int64

// maxChain is how many differences are laid on a whole state before it is written out again.
const maxChain = 64

// StateChange sets one piece of state; event 0 removes it.
type StateChange struct {
	Key   int64
	Event EventNID
}

// States are the snapshots of rooms' states.
type States struct{ tx *Tx }

// Snapshot is a state with its number and the length of its chain of parents.
type Snapshot struct {
	NID   StateNID
	Chain int
	Map   StateMap
}

// Next is the snapshot that follows when changes are made. It has to be written with Insert.
func (s Snapshot) Next(nid StateNID, changes []StateChange) Snapshot {
	m := s.Map
	for _, c := range changes {
		m = m.Set(c.Key, c.Event)
	}
	n := Snapshot{NID: nid, Chain: s.Chain + 1, Map: m}
	if s.NID == 0 || n.Chain > maxChain || len(changes) > m.Len()/2 {
		n.Chain = 0
	}
	return n
}

// Insert writes a snapshot that Next made of its parent. Errors: ErrStateGone, if the parent was unused and deleted.
func (s States) Insert(room RoomNID, n Snapshot, parent StateNID, changes []StateChange) error {
	if n.Chain == 0 {
		parent, changes = 0, changes[:0:0]
		for k, e := range n.Map.All {
			changes = append(changes, StateChange{k, e})
		}
		slices.SortFunc(changes, func(a, b StateChange) int { return int(a.Key - b.Key) })
	}
	if err := s.Hold(parent); err != nil {
		return err
	}
	_, err := s.tx.exec(`INSERT INTO state_snapshots (nid, room_nid, parent, chain, delta) VALUES (?, ?, ?, ?, ?)`,
		int64(n.NID), int64(room), int64(parent), n.Chain, encodeDelta(changes))
	if err == nil {
		s.tx.AfterCommit(func() { s.tx.db.cache.states.Set(n.NID, n.Map) })
	}
	return err
}

// link is one stored snapshot of a chain.
type link struct {
	nid, parent StateNID
	chain       int
	changes     []StateChange
}

// Get reads a snapshot, in at most two queries: its own row, and if the parent is not in memory, the rest of the chain.
// A reader remembers all that the chain holds, since who asks for one state often asks for those around it next.
func (s States) Get(nid StateNID) (Snapshot, error) {
	out := Snapshot{NID: nid}
	if nid == 0 {
		return out, nil
	}
	links, err := s.links(`SELECT nid, parent, chain, delta FROM state_snapshots WHERE nid = ?`, nid)
	if err != nil {
		return out, err
	}
	if len(links) == 0 {
		return out, fmt.Errorf("state %d is missing", nid)
	}
	out.Chain = links[0].chain
	if m, ok := s.tx.db.cache.states.GetIfPresent(nid); ok {
		out.Map = m
		return out, nil
	}
	if parent := links[0].parent; parent != 0 {
		m, ok := s.tx.db.cache.states.GetIfPresent(parent)
		if !ok {
			if m, err = s.build(parent); err != nil {
				return out, fmt.Errorf("state %d: %w", nid, err)
			}
		}
		out.Map = m
	}
	out.Map = s.apply(out.Map, links[0])
	return out, nil
}

// build makes a state of the whole chain that leads to it.
func (s States) build(nid StateNID) (m StateMap, err error) {
	links, err := s.links(`WITH RECURSIVE line (nid, parent, chain, delta) AS (
			SELECT nid, parent, chain, delta FROM state_snapshots WHERE nid = ?
			UNION ALL SELECT p.nid, p.parent, p.chain, p.delta FROM line JOIN state_snapshots p ON p.nid = line.parent WHERE line.parent <> 0)
		SELECT nid, parent, chain, delta FROM line ORDER BY chain`, nid)
	if err != nil {
		return m, err
	}
	var before StateNID
	for _, l := range links {
		if l.parent != before {
			return m, fmt.Errorf("state %d is missing", l.parent)
		}
		m, before = s.apply(m, l), l.nid
	}
	if before != nid {
		return m, fmt.Errorf("state %d is missing", nid)
	}
	return m, nil
}

// apply makes the state of a link of the one before it.
func (s States) apply(m StateMap, l link) StateMap {
	for _, c := range l.changes {
		m = m.Set(c.Key, c.Event)
	}
	if !s.tx.writable {
		s.tx.db.cache.states.Set(l.nid, m)
	}
	return m
}

func (s States) links(query string, nid StateNID) ([]link, error) {
	var out []link
	err := s.tx.query(func(rows *sql.Rows) error {
		var l link
		var delta []byte
		if err := rows.Scan(&l.nid, &l.parent, &l.chain, &delta); err != nil {
			return err
		}
		var err error
		if l.changes, err = decodeDelta(delta); err != nil {
			return fmt.Errorf("state %d: %w", l.nid, err)
		}
		out = append(out, l)
		return nil
	}, query, int64(nid))
	return out, err
}

// Map reads the state of a snapshot. It is Get for readers, who need no chain length.
func (s States) Map(nid StateNID) (StateMap, error) {
	if m, ok := s.tx.carried.states[nid]; ok {
		return m, nil
	}
	if m, ok := s.tx.db.cache.states.GetIfPresent(nid); ok {
		return m, nil
	}
	snapshot, err := s.Get(nid)
	return snapshot.Map, err
}

func encodeDelta(changes []StateChange) []byte {
	b := make([]byte, 0, 6*len(changes))
	for _, c := range changes {
		b = binary.AppendUvarint(b, uint64(c.Key))
		b = binary.AppendUvarint(b, uint64(c.Event))
	}
	return b
}

func decodeDelta(b []byte) ([]StateChange, error) {
	var out []StateChange
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("a broken difference")
		}
		e, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return nil, errors.New("a broken difference")
		}
		out = append(out, StateChange{int64(key), EventNID(e)})
		b = b[n+m:]
	}
	return out, nil
}

// StateKey interns the name of a piece of state: it returns its number, making one if need be. It must
// not be called inside Update.
func (db *DB) StateKey(ctx context.Context, t event.StateKeyTuple) (int64, error) {
	if key, ok := db.cache.keys.GetIfPresent(t); ok {
		return key, nil
	}
	keys, err := db.StateKeys(ctx, []event.StateKeyTuple{t})
	return keys[t], err
}

// StateKeys is StateKey for many names, in one transaction.
func (db *DB) StateKeys(ctx context.Context, tuples []event.StateKeyTuple) (map[event.StateKeyTuple]int64, error) {
	out := make(map[event.StateKeyTuple]int64, len(tuples))
	var missing []event.StateKeyTuple
	err := db.View(ctx, func(tx *Tx) error {
		for _, t := range tuples {
			key, err := tx.States.FindKey(t)
			if err != nil {
				return err
			}
			if out[t] = key; key == 0 {
				missing = append(missing, t)
			}
		}
		return nil
	})
	if err != nil || len(missing) == 0 {
		return out, err
	}
	fresh := make([]int64, len(missing))
	for i := range missing {
		if fresh[i], err = db.NextNumber(ctx); err != nil {
			return nil, err
		}
	}
	err = db.Update(ctx, func(tx *Tx) error {
		for i, t := range missing {
			if _, err := tx.exec(`INSERT INTO state_keys (nid, type, state_key) VALUES (?, ?, ?) ON CONFLICT (type, state_key) DO NOTHING`, fresh[i], escapeNUL.Replace(t.Type), escapeNUL.Replace(t.StateKey)); err != nil {
				return err
			}
			// Another process may have been first.
			if out[t], err = tx.States.FindKey(t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("intern state keys: %w", err)
	}
	for _, t := range missing {
		db.cache.keys.Set(t, out[t])
		db.cache.tuples.Set(out[t], t)
	}
	return out, nil
}

// FindKey is the number of a piece of state's name, 0 if no room has ever had it.
func (s States) FindKey(t event.StateKeyTuple) (int64, error) {
	if key, ok := s.tx.db.cache.keys.GetIfPresent(t); ok {
		return key, nil
	}
	var key int64
	found, err := s.tx.row([]any{&key}, `SELECT nid FROM state_keys WHERE type = ? AND state_key = ?`, escapeNUL.Replace(t.Type), escapeNUL.Replace(t.StateKey))
	if err == nil && found && !s.tx.writable {
		s.tx.db.cache.keys.Set(t, key)
		s.tx.db.cache.tuples.Set(key, t)
	}
	return key, err
}

// Tuples finds the names behind numbers of state keys.
func (s States) Tuples(keys []int64) (map[int64]event.StateKeyTuple, error) {
	out := make(map[int64]event.StateKeyTuple, len(keys))
	var missing []int64
	for _, k := range keys {
		if t, ok := s.tx.db.cache.tuples.GetIfPresent(k); ok {
			out[k] = t
		} else {
			missing = append(missing, k)
		}
	}
	for chunk := range slices.Chunk(missing, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var k int64
			var t event.StateKeyTuple
			if err := rows.Scan(&k, &t.Type, &t.StateKey); err != nil {
				return err
			}
			t.Type, t.StateKey = unescapeNUL.Replace(t.Type), unescapeNUL.Replace(t.StateKey)
			out[k] = t
			if !s.tx.writable {
				s.tx.db.cache.tuples.Set(k, t)
			}
			return nil
		}, `SELECT nid, type, state_key FROM state_keys WHERE nid IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Event finds one piece of a state; nil if it is not there.
func (s States) Event(m StateMap, t event.StateKeyTuple) (*Event, error) {
	key, err := s.FindKey(t)
	if err != nil || key == 0 {
		return nil, err
	}
	nid := m.Get(key)
	if nid == 0 {
		return nil, nil
	}
	list, err := s.tx.Events.ByNID(nid)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// Events reads all events of a state, in order of their numbers.
func (s States) Events(m StateMap) ([]*Event, error) {
	nids := make([]EventNID, 0, m.Len())
	for _, e := range m.All {
		nids = append(nids, e)
	}
	slices.Sort(nids)
	return s.tx.Events.ByNID(nids...)
}
