package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Relation says that an event relates to another (Client-Server API, "Relationships between events").
type Relation struct {
	Event    EventNID
	Position stream.Position // 0: it is not shown to clients, or not yet
	Parent   id.EventID
	RelType  string
	Type     string
	Sender   id.UserID
	Key      string // of annotations, empty of others
}

// Relations are the relationships between events, and redactions that wait for their target.
//
// Each query of what relates to an event is written such that one index alone fits (see the schema), and reads no
// more rows than it returns: strangers relate to an event as often as they like.
type Relations struct{ tx *Tx }

// Insert adds a relation, or the position of one that is known and has none.
func (s Relations) Insert(room RoomNID, r Relation) error {
	var position any // NULL if there is none
	if r.Position != 0 {
		position = int64(r.Position)
	}
	n, err := s.tx.exec(`INSERT INTO relations (event_nid, room_nid, position, parent, rel_type, type, sender, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (event_nid) DO UPDATE SET position = excluded.position WHERE relations.position IS NULL`,
		int64(r.Event), int64(room), position, string(r.Parent), r.RelType, r.Type, string(r.Sender), r.Key)
	if err != nil || n == 0 || r.Position == 0 {
		return err
	}
	return s.count(room, r)
}

// bySender are the relations of one sender to an event, of one kind: sender, room, parent, relation type, type and key.
const bySender = `sender = ? AND room_nid + 0 = ? AND parent = ? AND rel_type || '' = ? AND type || '' = ? AND key = ?`

// Same says whether an event by the same sender and of the same type relates to the same event in the same way.
func (s Relations) Same(room RoomNID, r Relation) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM relations WHERE `+bySender+` LIMIT 1`,
		string(r.Sender), int64(room), string(r.Parent), r.RelType, r.Type, r.Key)
}

// Relates says whether an event relates to another one.
func (s Relations) Relates(room RoomNID, event id.EventID) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM relations WHERE event_nid = (SELECT nid FROM events WHERE event_id = ?) AND room_nid + 0 = ?`,
		string(event), int64(room))
}

// Of tells what some events of a room's history relate to, without reading the events: a Relation with nothing but the
// position of one that relates to nothing, none of one that has no place there.
func (s Relations) Of(room RoomNID, ids []id.EventID) (map[id.EventID]Relation, error) {
	out := make(map[id.EventID]Relation, len(ids))
	for chunk := range slices.Chunk(ids, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var i id.EventID
			var r Relation
			err := rows.Scan(&i, &r.Position, &r.RelType, &r.Parent)
			out[i] = r
			return err
		}, `SELECT event_id, position, coalesce((SELECT rel_type FROM relations WHERE event_nid = nid), ''), coalesce((SELECT parent FROM relations WHERE event_nid = nid), '')
			FROM events WHERE event_id IN (?) AND room_nid + 0 = ? AND position IS NOT NULL`, bun.In(plainIDs(chunk)), int64(room))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Delete removes the relation of an event that was redacted.
func (s Relations) Delete(e EventNID) error {
	var room RoomNID
	r := Relation{Event: e}
	found, err := s.tx.row([]any{&room, &r.Parent, &r.RelType, &r.Sender, &r.Position},
		`DELETE FROM relations WHERE event_nid = ? RETURNING room_nid, parent, rel_type, sender, coalesce(position, 0)`, int64(e))
	if err != nil || !found || r.Position == 0 {
		return err
	}
	return s.discount(room, r)
}

// relatedTo are the relations to an event, of one relation type and event type if these are not empty: a type alone is
// not asked for.
func relatedTo(room RoomNID, parent id.EventID, relType, typ string) (where string, args []any) {
	switch {
	case relType == "":
		return `room_nid = ? AND parent = ?`, []any{int64(room), string(parent)}
	case typ == "":
		return `rel_type = ? AND room_nid + 0 = ? AND parent = ?`, []any{relType, int64(room), string(parent)}
	default:
		return `type = ? AND room_nid + 0 = ? AND parent = ? AND rel_type || '' = ?`, []any{typ, int64(room), string(parent), relType}
	}
}

// Children lists what relates to an event in from < p < to, oldest first or newest first, of one relation type, and of
// that of one event type, if these are not empty.
func (s Relations) Children(room RoomNID, parent id.EventID, relType, typ string, from, to stream.Position, limit int, backwards bool) ([]Relation, error) {
	order := ` ORDER BY position LIMIT ?`
	if backwards {
		order = ` ORDER BY position DESC LIMIT ?`
	}
	where, args := relatedTo(room, parent, relType, typ)
	var out []Relation
	err := s.tx.query(func(rows *sql.Rows) error {
		r := Relation{Parent: parent}
		if err := rows.Scan(&r.Event, &r.Position, &r.RelType, &r.Type, &r.Sender, &r.Key); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	}, `SELECT event_nid, position, rel_type, type, sender, key FROM relations WHERE `+where+` AND position > ? AND position < ?`+order,
		append(args, int64(from), int64(to), limit)...)
	return out, err
}

// Reach is whose events a redaction may redact: Everybody's, Nobody's, those of the users of the server that it names, or the
// messages of the user that it names.
type Reach string

// Reaches of the most and the least power.
const (
	Everybody Reach = ""
	Nobody    Reach = "@"
)

// rank orders reaches of one sender from the widest to the narrowest.
func (r Reach) rank() int {
	switch {
	case r == Everybody:
		return 0
	case r == Nobody:
		return 3
	case r[0] == '@':
		return 2
	default:
		return 1
	}
}

// Within is the narrower one of two reaches of one sender.
func (r Reach) Within(other Reach) Reach {
	if other.rank() > r.rank() {
		return other
	}
	return r
}

// Covers says whether an event is within reach.
func (r Reach) Covers(target *Event) bool {
	switch r.rank() {
	case 0:
		return true
	case 1:
		return r == Reach(target.Sender.Server())
	case 2:
		return r == Reach(target.Sender) && target.StateKey == nil
	default:
		return false
	}
}

// maxAwaiting is how many redactions of one event that may take effect in the same case wait for it: more change nothing.
const maxAwaiting = 3

// AwaitTarget remembers a redaction whose target has not arrived, with its reach if that turns out to be of the room's past,
// and if not.
func (s Relations) AwaitTarget(room RoomNID, redacts id.EventID, past, current Reach, by EventNID) error {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM pending_redactions WHERE redacts = ? AND room_nid = ? AND server = ? AND current = ?`,
		string(redacts), int64(room), string(past), string(current))
	if err != nil || n >= maxAwaiting {
		return err
	}
	_, err = s.tx.exec(`INSERT INTO pending_redactions (redacts, room_nid, event_nid, server, current) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(redacts), int64(room), int64(by), string(past), string(current))
	return err
}

// Awaiting lists the redactions that wait for an event and have it within reach, the first one first.
func (s Relations) Awaiting(target *Event, past bool) ([]EventNID, error) {
	column := "current"
	if past {
		column = "server"
	}
	var out []EventNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		var reach Reach
		if err := rows.Scan(&n, &reach); err != nil {
			return err
		}
		if reach.Covers(target) {
			out = append(out, n)
		}
		return nil
	}, `SELECT event_nid, `+column+` FROM pending_redactions WHERE redacts = ? AND room_nid = ? AND `+column+` IN ('', ?, ?) ORDER BY event_nid LIMIT 100`,
		string(target.ID), int64(target.Room), string(target.Sender.Server()), string(target.Sender))
	return out, err
}

// Awaited says which of some events redactions wait for.
func (s Relations) Awaited(room RoomNID, ids []id.EventID) (map[id.EventID]bool, error) {
	out := map[id.EventID]bool{}
	for chunk := range slices.Chunk(ids, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var i id.EventID
			if err := rows.Scan(&i); err != nil {
				return err
			}
			out[i] = true
			return nil
		}, `SELECT DISTINCT redacts FROM pending_redactions WHERE room_nid = ? AND redacts IN (?)`, int64(room), bun.In(plainIDs(chunk)))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// TargetCame forgets the redactions that waited for an event.
func (s Relations) TargetCame(room RoomNID, redacts id.EventID) error {
	_, err := s.tx.exec(`DELETE FROM pending_redactions WHERE redacts = ? AND room_nid = ?`, string(redacts), int64(room))
	return err
}
