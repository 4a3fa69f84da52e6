package store

import (
	"database/sql"
	"math"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

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
	}, `SELECT parent, rel_type, type, sender, count(*), max(position) FROM relations
		WHERE room_nid = ? AND parent IN (?) AND rel_type IN ('m.replace', 'm.thread', 'm.reference')
		AND position IS NOT NULL GROUP BY parent, rel_type, type, sender`, int64(room), bun.In(plainIDs(parents)))
	return out, err
}

// maxUnion is how many queries are put into one: each is planned and limited alone.
const maxUnion = 100

// union puts queries of relations, the same one with the arguments of each, into one. A single query for all of them would
// read all that relates to any before it takes the first ones of each.
func union(query string, args [][]any) schema.QueryWithArgs {
	parts := slices.Repeat([]string{`SELECT * FROM (` + query + `) AS one`}, len(args))
	return bun.SafeQuery(strings.Join(parts, ` UNION ALL `), slices.Concat(args...)...)
}

// Newest lists the events of some groups with their parents, of each group those that came last, at most so many.
func (s Relations) Newest(room RoomNID, groups []RelationGroup, each int) ([]Relation, error) {
	var out []Relation
	for chunk := range slices.Chunk(groups, maxUnion) {
		args := make([][]any, len(chunk))
		for i, g := range chunk {
			args[i] = []any{string(g.Sender), int64(room), string(g.Parent), g.RelType, g.Type, "", each}
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var r Relation
			if err := rows.Scan(&r.Event, &r.Parent); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT event_nid, parent FROM (?) AS newest`,
			union(`SELECT event_nid, parent FROM relations WHERE `+bySender+` AND position IS NOT NULL ORDER BY position DESC LIMIT ?`, args))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// NamedRelation is a relation with the ID of the event that relates.
type NamedRelation struct {
	Relation
	ID id.EventID
}

// ChildrenOf lists what relates to any of some events of a room, at most limit, of one relation type, and of that of one
// event type, if these are not empty: of one event after the other, the oldest first.
func (s Relations) ChildrenOf(room RoomNID, parents []id.EventID, relType, typ string, limit int) ([]NamedRelation, error) {
	var out []NamedRelation
	for chunk := range slices.Chunk(parents, maxUnion) {
		var where string
		args := make([][]any, len(chunk))
		for i, p := range chunk {
			where, args[i] = relatedTo(room, p, relType, typ)
			args[i] = append(args[i], int64(math.MinInt64), int64(math.MaxInt64), limit-len(out))
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var r NamedRelation
			if err := rows.Scan(&r.Event, &r.ID, &r.Position, &r.Parent, &r.RelType, &r.Type, &r.Sender, &r.Key); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT event_nid, (SELECT event_id FROM events WHERE nid = event_nid), position, parent, rel_type, type, sender, key FROM (?) AS children LIMIT ?`,
			union(`SELECT event_nid, position, parent, rel_type, type, sender, key FROM relations WHERE `+where+`
				AND position > ? AND position < ? ORDER BY position LIMIT ?`, args), limit-len(out))
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
	}, `SELECT parent, max(position) AS last FROM relations
		WHERE room_nid = ? AND rel_type = 'm.thread' AND position IS NOT NULL
		GROUP BY parent HAVING max(position) <= ? ORDER BY last DESC LIMIT ?`, int64(room), int64(upto), limit)
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
