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
	Position stream.Position
	Parent   id.EventID
	RelType  string
	Type     string
	Sender   id.UserID
	Key      string // of annotations
}

// Relations are the relationships between events, and redactions that wait for their target.
type Relations struct{ tx *Tx }

// Insert adds a relation.
func (s Relations) Insert(room RoomNID, r Relation) error {
	_, err := s.tx.exec(`INSERT INTO relations (event_nid, room_nid, parent, rel_type, type, sender, key) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		int64(r.Event), int64(room), string(r.Parent), r.RelType, r.Type, string(r.Sender), r.Key)
	return err
}

// Same says whether an event by the same sender and of the same type relates to the same event in the same way.
func (s Relations) Same(room RoomNID, r Relation) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM relations WHERE room_nid = ? AND parent = ? AND rel_type = ? AND type = ? AND sender = ? AND key = ? LIMIT 1`,
		int64(room), string(r.Parent), r.RelType, r.Type, string(r.Sender), r.Key)
}

// Relates says whether an event relates to another one.
func (s Relations) Relates(room RoomNID, event id.EventID) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM relations r JOIN events e ON e.nid = r.event_nid WHERE e.event_id = ? AND r.room_nid = ? LIMIT 1`,
		string(event), int64(room))
}

// Delete removes the relation of an event that was redacted.
func (s Relations) Delete(e EventNID) error {
	_, err := s.tx.exec(`DELETE FROM relations WHERE event_nid = ?`, int64(e))
	return err
}

// Children lists what relates to an event in from < p < to, oldest first or newest first, of one relation type and event type
// if these are not empty.
func (s Relations) Children(room RoomNID, parent id.EventID, relType, typ string, from, to stream.Position, limit int, backwards bool) ([]Relation, error) {
	order := ` ORDER BY e.position LIMIT ?`
	if backwards {
		order = ` ORDER BY e.position DESC LIMIT ?`
	}
	var out []Relation
	err := s.tx.query(func(rows *sql.Rows) error {
		r := Relation{Parent: parent}
		if err := rows.Scan(&r.Event, &r.Position, &r.RelType, &r.Type, &r.Sender, &r.Key); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	}, `SELECT r.event_nid, e.position, r.rel_type, r.type, r.sender, r.key FROM relations r JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = ? AND r.parent = ? AND e.position IS NOT NULL AND e.status = 0 AND e.position > ? AND e.position < ?
		AND (? = '' OR r.rel_type = ?) AND (? = '' OR r.type = ?)`+order,
		int64(room), string(parent), int64(from), int64(to), relType, relType, typ, typ, limit)
	return out, err
}

// Parents lists the events of a room that others relate to in one way, those last related to first.
func (s Relations) Parents(room RoomNID, relType string) ([]id.EventID, error) {
	var out []id.EventID
	err := s.tx.query(func(rows *sql.Rows) error {
		var p id.EventID
		var last int64
		if err := rows.Scan(&p, &last); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	}, `SELECT r.parent, max(e.position) AS last FROM relations r JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = ? AND r.rel_type = ? AND e.position IS NOT NULL AND e.status = 0 GROUP BY r.parent ORDER BY last DESC`, int64(room), relType)
	return out, err
}

// maxAwaiting is how many redactions of one event that may take effect in the same case wait for it: more change nothing.
const maxAwaiting = 3

// AwaitTarget remembers a redaction whose target has not arrived. It may redact what users of a server sent, or if that
// is empty whatever anybody did.
func (s Relations) AwaitTarget(room RoomNID, redacts id.EventID, server id.ServerName, by EventNID) error {
	var n int
	if _, err := s.tx.row([]any{&n}, `SELECT count(*) FROM pending_redactions WHERE redacts = ? AND room_nid = ? AND server = ?`, string(redacts), int64(room), string(server)); err != nil || n >= maxAwaiting {
		return err
	}
	_, err := s.tx.exec(`INSERT INTO pending_redactions (redacts, room_nid, event_nid, server) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, string(redacts), int64(room), int64(by), string(server))
	return err
}

// Awaiting lists the redactions that wait for an event which a user of a server sent.
func (s Relations) Awaiting(room RoomNID, redacts id.EventID, server id.ServerName) ([]EventNID, error) {
	var out []EventNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		if err := rows.Scan(&n); err != nil {
			return err
		}
		out = append(out, n)
		return nil
	}, `SELECT event_nid FROM pending_redactions WHERE redacts = ? AND room_nid = ? AND server IN ('', ?) ORDER BY event_nid LIMIT 100`, string(redacts), int64(room), string(server))
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
