package store

import (
	"cmp"
	"database/sql"
	"math"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// RelationGroup is what relates to an event in one way: by edits, in a thread or by references.
type RelationGroup struct {
	Parent  id.EventID
	RelType string
	Count   int64
	Last    stream.Position // of the newest of them
}

const threadRelation = "m.thread"

// grouped says whether relations of a type are counted.
func grouped(relType string) bool {
	return relType == "m.replace" || relType == threadRelation || relType == "m.reference"
}

// count adds a relation that got its position to what is counted.
func (s Relations) count(room RoomNID, r Relation) error {
	if !grouped(r.RelType) {
		return nil
	}
	_, err := s.tx.exec(`INSERT INTO relation_groups (room_nid, parent, rel_type, count, last) VALUES (?, ?, ?, 1, ?)
		ON CONFLICT (room_nid, parent, rel_type) DO UPDATE SET count = relation_groups.count + 1,
		last = CASE WHEN excluded.last > relation_groups.last THEN excluded.last ELSE relation_groups.last END`,
		int64(room), string(r.Parent), r.RelType, int64(r.Position))
	if err == nil && r.RelType == threadRelation {
		_, err = s.tx.exec(`INSERT INTO thread_senders (room_nid, root, sender, count) VALUES (?, ?, ?, 1)
			ON CONFLICT (room_nid, root, sender) DO UPDATE SET count = thread_senders.count + 1`, int64(room), string(r.Parent), string(r.Sender))
	}
	return err
}

// discount takes a relation that had a position, and is deleted, from what is counted.
func (s Relations) discount(room RoomNID, r Relation) error {
	if !grouped(r.RelType) {
		return nil
	}
	group := []any{int64(room), string(r.Parent), r.RelType}
	_, err := s.tx.exec(`DELETE FROM relation_groups WHERE room_nid = ? AND parent = ? AND rel_type = ? AND count = 1`, group...)
	if err == nil {
		where, args := relatedTo(room, r.Parent, r.RelType, "")
		args = append([]any{int64(r.Position)}, append(append(args, lowest, highest), group...)...)
		_, err = s.tx.exec(`UPDATE relation_groups SET count = count - 1, last = CASE WHEN last <> ? THEN last ELSE
			(SELECT position FROM relations WHERE `+where+` AND position > ? AND position < ? ORDER BY position DESC LIMIT 1) END
			WHERE room_nid = ? AND parent = ? AND rel_type = ?`, args...)
	}
	if err != nil || r.RelType != threadRelation {
		return err
	}
	sender := []any{int64(room), string(r.Parent), string(r.Sender)}
	n, err := s.tx.exec(`DELETE FROM thread_senders WHERE room_nid = ? AND root = ? AND sender = ? AND count = 1`, sender...)
	if err == nil && n == 0 {
		_, err = s.tx.exec(`UPDATE thread_senders SET count = count - 1 WHERE room_nid = ? AND root = ? AND sender = ?`, sender...)
	}
	return err
}

// Groups sums up what relates to some events of a room by edits, threads and references. Each row is looked up by its whole
// key: with lists of keys a planner may prefer to read all of the room.
func (s Relations) Groups(room RoomNID, parents []id.EventID) ([]RelationGroup, error) {
	const group = `FROM relation_groups WHERE room_nid = ? AND parent = p.column1 AND rel_type = w.column1`
	var out []RelationGroup
	for chunk := range slices.Chunk(parents, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var g RelationGroup
			if err := rows.Scan(&g.Parent, &g.RelType, &g.Count, &g.Last); err != nil {
				return err
			}
			out = append(out, g)
			return nil
		}, `SELECT p.column1, w.column1, (SELECT count `+group+`), (SELECT last `+group+`)
			FROM (VALUES ?) AS p, (VALUES ('m.replace'), ('m.thread'), ('m.reference')) AS w WHERE (SELECT count `+group+`) IS NOT NULL`,
			int64(room), int64(room), column(plainIDs(chunk)), int64(room))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Answers are how many answers of a thread a user sent.
type Answers struct {
	Root   id.EventID
	Sender id.UserID
	Count  int64
}

// Answered tells how often each of some users, at least one, answered in each of some threads, if anything. It looks at as many rows as there
// are threads times users.
func (s Relations) Answered(room RoomNID, roots []id.EventID, users []id.UserID) ([]Answers, error) {
	const answers = `(SELECT count FROM thread_senders WHERE room_nid = ? AND root = r.column1 AND sender = u.column1)`
	var out []Answers
	senders := make([]string, len(users))
	for i, u := range users {
		senders[i] = string(u)
	}
	for chunk := range slices.Chunk(roots, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var a Answers
			if err := rows.Scan(&a.Root, &a.Sender, &a.Count); err != nil {
				return err
			}
			out = append(out, a)
			return nil
		}, `SELECT r.column1, u.column1, `+answers+` FROM (VALUES ?) AS r, (VALUES ?) AS u WHERE `+answers+` IS NOT NULL`,
			int64(room), column(plainIDs(chunk)), column(senders), int64(room))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LastAnswers lists the newest answers of some threads with their senders, of each thread at most so many, the newest first.
func (s Relations) LastAnswers(room RoomNID, roots []id.EventID, each int) ([]Relation, error) {
	var out []Relation
	for chunk := range slices.Chunk(roots, maxUnion) {
		var where string
		args := make([][]any, len(chunk))
		for i, root := range chunk {
			where, args[i] = relatedTo(room, root, threadRelation, "")
			args[i] = append(args[i], lowest, highest, each)
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var r Relation
			if err := rows.Scan(&r.Parent, &r.Sender, &r.Position); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT parent, sender, position FROM (?) AS answers`,
			union(`SELECT parent, sender, position FROM relations WHERE `+where+` AND position > ? AND position < ? ORDER BY position DESC LIMIT ?`, args))
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Relation) int { return cmp.Compare(b.Position, a.Position) })
	return out, nil
}

// All positions lie between these.
const lowest, highest = int64(math.MinInt64), int64(math.MaxInt64)

// maxUnion is how many queries are put into one: each is planned and limited alone.
const maxUnion = 100

// union puts queries of relations, the same one with the arguments of each, into one. A single query for all of them would
// read all that relates to any before it takes the first ones of each.
func union(query string, args [][]any) schema.QueryWithArgs {
	parts := slices.Repeat([]string{`SELECT * FROM (` + query + `) AS one`}, len(args))
	return bun.SafeQuery(strings.Join(parts, ` UNION ALL `), slices.Concat(args...)...)
}

// Newest lists the events that relate to others as given, with the same parent, types and sender, with their parents: of
// each given one those that came last, at most so many.
func (s Relations) Newest(room RoomNID, like []Relation, each int) ([]Relation, error) {
	var out []Relation
	for chunk := range slices.Chunk(like, maxUnion) {
		args := make([][]any, len(chunk))
		for i, r := range chunk {
			args[i] = []any{string(r.Sender), int64(room), string(r.Parent), r.RelType, r.Type, r.Key, lowest, highest, each}
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var r Relation
			if err := rows.Scan(&r.Event, &r.Parent); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		}, `SELECT event_nid, parent FROM (?) AS newest`,
			union(`SELECT event_nid, parent FROM relations WHERE `+bySender+` AND position > ? AND position < ? ORDER BY position DESC LIMIT ?`, args))
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
			args[i] = append(args[i], lowest, highest, limit-len(out))
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
	}, `SELECT parent, last FROM relation_groups WHERE room_nid + 0 = ? AND rel_type = 'm.thread' AND last > ? AND last <= ? ORDER BY last DESC LIMIT ?`,
		int64(room), lowest, int64(upto), limit)
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

// column are values as the rows of a VALUES list.
func column(values []string) schema.QueryAppender {
	rows := make([][]string, len(values))
	for i, v := range values {
		rows[i] = []string{v}
	}
	return bun.In(rows)
}

func plainIDs(ids []id.EventID) []string {
	out := make([]string, len(ids))
	for i, e := range ids {
		out[i] = string(e)
	}
	return out
}
