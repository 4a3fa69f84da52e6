package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// RelationGroup is what events of one type by one sender that relate to an event in one way have in common.
type RelationGroup struct {
	Parent  id.EventID
	RelType string
	Type    string
	Sender  id.UserID
	Count   int64
	Last    stream.Position // of the newest of them
}

// Groups sums up what relates to some events of a room by edits, threads and references.
func (s Relations) Groups(room RoomNID, parents []id.EventID) ([]RelationGroup, error) {
	var out []RelationGroup
	if len(parents) == 0 {
		return nil, nil
	}
	err := s.tx.query(func(rows *sql.Rows) error {
		var g RelationGroup
		if err := rows.Scan(&g.Parent, &g.RelType, &g.Type, &g.Sender, &g.Count, &g.Last); err != nil {
			return err
		}
		out = append(out, g)
		return nil
	}, `SELECT r.parent, r.rel_type, r.type, r.sender, count(*), max(e.position) FROM relations r JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = ? AND r.parent IN (?) AND r.rel_type IN ('m.replace', 'm.thread', 'm.reference')
		AND e.position IS NOT NULL AND e.status = 0 GROUP BY r.parent, r.rel_type, r.type, r.sender`, int64(room), bun.In(plainIDs(parents)))
	return out, err
}

// Newest lists the events of some groups with their parents, of each group those that came last, at most so many.
func (s Relations) Newest(room RoomNID, groups []RelationGroup, each int) ([]Relation, error) {
	var out []Relation
	for chunk := range slices.Chunk(groups, 100) {
		rows := make([][]string, len(chunk))
		for i, g := range chunk {
			rows[i] = []string{string(g.Parent), g.RelType, g.Type, string(g.Sender)}
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var r Relation
			if err := rows.Scan(&r.Event, &r.Parent); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT event_nid, parent FROM (SELECT r.event_nid, r.parent,
				row_number() OVER (PARTITION BY r.parent, r.rel_type, r.type, r.sender ORDER BY e.position DESC) AS n
				FROM relations r JOIN events e ON e.nid = r.event_nid
				WHERE r.room_nid = ? AND (r.parent, r.rel_type, r.type, r.sender) IN (VALUES ?)
				AND e.position IS NOT NULL AND e.status = 0) AS numbered WHERE n <= ?`, int64(room), bun.In(rows), each)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// References lists the events that refer to some events of a room by m.reference, oldest first, at most limit.
func (s Relations) References(room RoomNID, parents []id.EventID, limit int) ([]Relation, error) {
	var out []Relation
	if len(parents) == 0 {
		return nil, nil
	}
	err := s.tx.query(func(rows *sql.Rows) error {
		r := Relation{RelType: "m.reference"}
		if err := rows.Scan(&r.Event, &r.Position, &r.Parent, &r.Type, &r.Sender); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	}, `SELECT r.event_nid, e.position, r.parent, r.type, r.sender FROM relations r JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = ? AND r.parent IN (?) AND r.rel_type = 'm.reference' AND e.position IS NOT NULL AND e.status = 0
		ORDER BY e.position LIMIT ?`, int64(room), bun.In(plainIDs(parents)), limit)
	return out, err
}

// NamedRelation is a relation with the ID of the event that relates.
type NamedRelation struct {
	Relation
	ID id.EventID
}

// ChildrenOf lists what relates to any of some events of a room, oldest first, of one relation type and event type if
// these are not empty.
func (s Relations) ChildrenOf(room RoomNID, parents []id.EventID, relType, typ string, limit int) ([]NamedRelation, error) {
	var out []NamedRelation
	for chunk := range slices.Chunk(parents, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var r NamedRelation
			if err := rows.Scan(&r.Event, &r.ID, &r.Position, &r.Parent, &r.RelType, &r.Type, &r.Sender, &r.Key); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT r.event_nid, e.event_id, e.position, r.parent, r.rel_type, r.type, r.sender, r.key FROM relations r JOIN events e ON e.nid = r.event_nid
			WHERE r.room_nid = ? AND r.parent IN (?) AND e.position IS NOT NULL AND e.status = 0
			AND (? = '' OR r.rel_type = ?) AND (? = '' OR r.type = ?) ORDER BY e.position LIMIT ?`,
			int64(room), bun.In(plainIDs(chunk)), relType, relType, typ, typ, limit-len(out))
		if err != nil || len(out) >= limit {
			return out, err
		}
	}
	return out, nil
}

// Thread is the first event of a thread and where its newest answer stands.
type Thread struct {
	Root id.EventID
	Last stream.Position
}

// Threads lists threads of a room with their newest answer at or before upto, the last answered first.
func (s Relations) Threads(room RoomNID, upto stream.Position, limit int) ([]Thread, error) {
	var out []Thread
	err := s.tx.query(func(rows *sql.Rows) error {
		var t Thread
		if err := rows.Scan(&t.Root, &t.Last); err != nil {
			return err
		}
		out = append(out, t)
		return nil
	}, `SELECT r.parent, max(e.position) AS last FROM relations r JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = ? AND r.rel_type = 'm.thread' AND e.position IS NOT NULL AND e.status = 0
		GROUP BY r.parent HAVING max(e.position) <= ? ORDER BY last DESC LIMIT ?`, int64(room), int64(upto), limit)
	return out, err
}

// At finds the events of a room at some positions, in no particular order.
func (s Events) At(room RoomNID, positions []stream.Position) ([]*Event, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	plain := make([]int64, len(positions))
	for i, p := range positions {
		plain[i] = int64(p)
	}
	var nids []EventNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		if err := rows.Scan(&n); err != nil {
			return err
		}
		nids = append(nids, n)
		return nil
	}, `SELECT nid FROM events WHERE room_nid = ? AND position IN (?) AND position IS NOT NULL AND status = 0`, int64(room), bun.In(plain))
	if err != nil {
		return nil, err
	}
	return s.ByNID(nids...)
}

func plainIDs(ids []id.EventID) []string {
	out := make([]string, len(ids))
	for i, e := range ids {
		out[i] = string(e)
	}
	return out
}
