package store

import (
	"database/sql"
	"fmt"
	"slices"
	"sync"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// EventNID is the number of an event in this database.
type EventNID int64

// Event is an event with what the server knows of it. It never changes: a redaction makes a new one.
type Event struct {
	*event.Event
	NID         EventNID
	Room        RoomNID
	Position    stream.Position // 0: an outlier
	StateBefore StateNID        // 0: an outlier
	Rejected    bool            // it failed the authorization rules, for good
	SoftFailed  bool            // it failed them against the current state only
	Withheld    bool            // a redaction that clients must not see, at least not yet
	RedactedBy  EventNID        // 0: not redacted
	Known       bool            // only when writing: it was stored before without a position

	once   sync.Once
	client []byte
}

// Outlier says that the event is known but has no place in the room's history here, not even as one that was refused.
func (e *Event) Outlier() bool { return e.Position == 0 && e.StateBefore == 0 }

// SyncJSON is the event as clients that are joined to its room see it, without a room_id. It is encoded once.
func (e *Event) SyncJSON() []byte {
	e.once.Do(func() { e.client = e.Event.SyncJSON(joinedUnsigned) })
	return e.client
}

// joinedUnsigned tells a client that its user was joined at the event (Client-Server API, "membership" in unsigned).
var joinedUnsigned = []byte(`{"membership":"join"}`)

const (
	bitRejected   = 1
	bitSoftFailed = 2
	bitWithheld   = 4
)

// weigh says how many bytes an event takes in the cache, about.
func weigh(_ EventNID, e *Event) uint32 { return uint32(2*len(e.JSON) + 600) }

// Events are all events of all rooms.
type Events struct{ tx *Tx }

const eventColumns = `nid, event_id, room_nid, position, state_before, status, redacted_by, json`

const insertEvent = `INSERT INTO events (` + eventColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`

// Append adds a new event to the end of the log. The change says what else is to be known of it: Wake, Servers, for which
// it is queued, Members and Moved. Then, which may be nil, is called with its position.
func (s Events) Append(e *Event, change stream.Change, then func(stream.Position) error) {
	change.Kind, change.Room, change.NID = stream.Event, e.RoomID, int64(e.NID)
	s.tx.Log(change, func(p stream.Position) error {
		e.Position = p
		if err := s.insert(e, insertEvent); err != nil {
			return err
		}
		if len(change.Servers) > 0 {
			if err := s.tx.Outbox.AddEvent(change.Servers, p, e.NID); err != nil {
				return err
			}
		}
		if then != nil {
			return then(p)
		}
		return nil
	})
}

// Prepend adds an event of a room's past, behind what was fetched before.
func (s Events) Prepend(e *Event) error {
	var n int64
	if _, err := s.tx.row([]any{&n}, `UPDATE counters SET value = value + 1 WHERE name = 'history' RETURNING value`); err != nil {
		return err
	}
	e.Position = stream.Position(-n)
	return s.insert(e, insertEvent)
}

// InsertAside adds an event that gets no position: an outlier (without StateBefore), or one that was refused.
func (s Events) InsertAside(e *Event) error {
	e.Position = 0
	if e.Outlier() {
		return s.insert(e, insertEvent+` ON CONFLICT (event_id) DO NOTHING`)
	}
	return s.insert(e, insertEvent)
}

// Uncover shows an event that was withheld and has a position.
func (s Events) Uncover(e *Event) error {
	_, err := s.tx.exec(`UPDATE events SET status = 0 WHERE nid = ?`, int64(e.NID))
	s.tx.AfterCommit(func() { s.tx.db.cache.events.Invalidate(e.NID) })
	return err
}

// insert writes a new event with a statement, or the place of one that is known, and has memory keep what has a position.
func (s Events) insert(e *Event, statement string) (err error) {
	var position any // NULL if there is none
	if e.Position != 0 {
		position = int64(e.Position)
	}
	status := int64(0)
	if e.Rejected {
		status |= bitRejected
	}
	if e.SoftFailed {
		status |= bitSoftFailed
	}
	if e.Withheld {
		status |= bitWithheld
	}
	if e.Known {
		_, err = s.tx.exec(`UPDATE events SET position = ?, state_before = ?, status = ? WHERE nid = ? AND position IS NULL`,
			position, int64(e.StateBefore), status, int64(e.NID))
		if err == nil && e.RedactedBy != 0 {
			_, err = s.tx.exec(`UPDATE events SET json = ?, redacted_by = ? WHERE nid = ?`, e.JSON, int64(e.RedactedBy), int64(e.NID))
		}
	} else {
		_, err = s.tx.exec(statement, int64(e.NID), string(e.ID), int64(e.Room), position, int64(e.StateBefore), status, int64(e.RedactedBy), e.JSON)
	}
	if e.Position != 0 {
		s.tx.after = append(s.tx.after, func() {
			s.tx.db.cache.events.Set(e.NID, e)
			s.tx.db.cache.eventIDs.Set(e.ID, e.NID)
		})
	}
	return err
}

// Redact replaces the stored form of an event by its redacted form.
func (s Events) Redact(target *Event, redacted *event.Event, by EventNID) error {
	if _, err := s.tx.exec(`UPDATE events SET json = ?, redacted_by = ? WHERE nid = ?`, redacted.JSON, int64(by), int64(target.NID)); err != nil {
		return err
	}
	s.tx.AfterCommit(func() {
		if target.Position == 0 {
			s.tx.db.cache.events.Invalidate(target.NID) // it has none, or was queued and has got one since
			return
		}
		fresh := &Event{
			Event: redacted, NID: target.NID, Room: target.Room, Position: target.Position, StateBefore: target.StateBefore,
			Rejected: target.Rejected, SoftFailed: target.SoftFailed, Withheld: target.Withheld, RedactedBy: by,
		}
		s.tx.db.cache.events.Set(target.NID, fresh)
	})
	return nil
}

// Get finds an event by its ID; nil if it is not known.
func (s Events) Get(eventID id.EventID) (*Event, error) {
	list, err := s.ByID(eventID)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// ByID finds events by their IDs, in the order asked for; unknown ones are left out.
func (s Events) ByID(ids ...id.EventID) ([]*Event, error) {
	found := make(map[id.EventID]*Event, len(ids))
	var missing []string
	for _, i := range ids {
		if e := s.tx.carried.ids[i]; e != nil {
			found[i] = e
			continue
		}
		nid, ok := s.tx.db.cache.eventIDs.GetIfPresent(i)
		var e *Event
		if ok {
			e, ok = s.tx.db.cache.events.GetIfPresent(nid)
		}
		if ok {
			found[i] = e
		} else {
			missing = append(missing, string(i))
		}
	}
	for chunk := range slices.Chunk(missing, 500) {
		err := s.load(func(e *Event) { found[e.ID] = e }, `SELECT `+eventColumns+` FROM events WHERE event_id IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return pick(ids, found), nil
}

// Place is where an event stands in its room's log.
type Place struct {
	Position    stream.Position
	StateBefore StateNID
}

// Outlier is Event.Outlier of the event there.
func (p Place) Outlier() bool { return p.Position == 0 && p.StateBefore == 0 }

// Places tells where events stand, for who needs nothing else of them; unknown ones are left out.
func (s Events) Places(ids ...id.EventID) (map[id.EventID]Place, error) {
	out := make(map[id.EventID]Place, len(ids))
	var missing []string
	for _, i := range ids {
		nid, known := s.tx.db.cache.eventIDs.GetIfPresent(i)
		if e, ok := s.tx.db.cache.events.GetIfPresent(nid); known && ok {
			out[i] = Place{e.Position, e.StateBefore}
		} else {
			missing = append(missing, string(i))
		}
	}
	for chunk := range slices.Chunk(missing, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var i id.EventID
			var p Place
			err := rows.Scan(&i, &p.Position, &p.StateBefore)
			out[i] = p
			return err
		}, `SELECT event_id, coalesce(position, 0), state_before FROM events WHERE event_id IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ByNID finds events by their numbers, in the order asked for; unknown ones are left out.
func (s Events) ByNID(nids ...EventNID) ([]*Event, error) {
	found := make(map[EventNID]*Event, len(nids))
	var missing []int64
	for _, n := range nids {
		if e := s.tx.carried.events[n]; e != nil {
			found[n] = e
		} else if e, ok := s.tx.db.cache.events.GetIfPresent(n); ok {
			found[n] = e
		} else {
			missing = append(missing, int64(n))
		}
	}
	for chunk := range slices.Chunk(missing, 500) {
		err := s.load(func(e *Event) { found[e.NID] = e }, `SELECT `+eventColumns+` FROM events WHERE nid IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return pick(nids, found), nil
}

func pick[K comparable](keys []K, found map[K]*Event) []*Event {
	out := make([]*Event, 0, len(keys))
	for _, k := range keys {
		if e := found[k]; e != nil {
			out = append(out, e)
		}
	}
	return out
}

// Range reads events of a room at positions from < p <= to, at most limit: the first ones, or the last
// ones in reverse if backwards. Rejected and soft-failed events are left out.
func (s Events) Range(room RoomNID, from, to stream.Position, limit int, backwards bool) ([]*Event, error) {
	return s.readRange(room, from, to, limit, inRange(backwards, shown))
}

// RangeOfState is Range with redactions that are withheld and have changed the state: who reads must not show them.
func (s Events) RangeOfState(room RoomNID, from, to stream.Position, limit int, backwards bool) ([]*Event, error) {
	return s.readRange(room, from, to, limit, inRange(backwards, ofState))
}

func (s Events) readRange(room RoomNID, from, to stream.Position, limit int, which string) ([]*Event, error) {
	var nids []EventNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		if err := rows.Scan(&n); err != nil {
			return err
		}
		nids = append(nids, n)
		return nil
	}, `SELECT nid`+which, int64(room), int64(from), int64(to), limit)
	if err != nil {
		return nil, err
	}
	return s.ByNID(nids...)
}

// RangeWithin is Range for readers who look at a lot: it ends with the event by which the given size, in bytes, is
// reached. More says that it ended before the range did.
func (s Events) RangeWithin(room RoomNID, from, to stream.Position, limit, size int, backwards bool) (list []*Event, more bool, err error) {
	return s.readWithin(room, from, to, limit, size, inRange(backwards, shown))
}

// RangeOfStateWithin is RangeOfState, backwards, for readers who look at a lot.
func (s Events) RangeOfStateWithin(room RoomNID, from, to stream.Position, limit, size int) (list []*Event, more bool, err error) {
	return s.readWithin(room, from, to, limit, size, inRange(true, ofState))
}

func (s Events) readWithin(room RoomNID, from, to stream.Position, limit, size int, which string) (list []*Event, more bool, err error) {
	var nids []EventNID
	err = s.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		var bytes int
		if err := rows.Scan(&n, &bytes); err != nil {
			return err
		}
		if size > 0 {
			nids = append(nids, n)
		} else {
			more = true
		}
		size -= bytes
		return nil
	}, `SELECT nid, octet_length(json)`+which, int64(room), int64(from), int64(to), limit)
	if err != nil {
		return nil, false, err
	}
	list, err = s.ByNID(nids...)
	return list, more || len(nids) == limit, err
}

// Size is how many bytes an event has, and the one that redacted it.
type Size struct{ Event, Redaction int }

// Sizes tells how large events are without reading them.
func (s Events) Sizes(nids []EventNID) (map[EventNID]Size, error) {
	out := make(map[EventNID]Size, len(nids))
	for chunk := range slices.Chunk(nids, 500) {
		plain := make([]int64, len(chunk))
		for i, n := range chunk {
			plain[i] = int64(n)
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var n EventNID
			var size Size
			if err := rows.Scan(&n, &size.Event, &size.Redaction); err != nil {
				return err
			}
			out[n] = size
			return nil
		}, `SELECT e.nid, octet_length(e.json), coalesce(octet_length(r.json), 0) FROM events e LEFT JOIN events r ON r.nid = e.redacted_by
			WHERE e.nid IN (?)`, bun.In(plain))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Events of a room's log: those that may be shown, and with them those that are not but have changed its state.
const (
	shown   = `status = 0`
	ofState = `status = 0 OR status = 4`
)

func inRange(backwards bool, status string) string {
	where := ` FROM events WHERE room_nid = ? AND position > ? AND position <= ? AND position IS NOT NULL AND (` + status + `) ORDER BY position`
	if backwards {
		return where + ` DESC LIMIT ?`
	}
	return where + ` LIMIT ?`
}

// Since reads what was appended to the log in from < p <= to, in any room, at most limit.
func (s Events) Since(from, to stream.Position, limit int) ([]*Event, error) {
	var out []*Event
	err := s.load(func(e *Event) { out = append(out, e) },
		`SELECT `+eventColumns+` FROM events WHERE position > ? AND position <= ? AND status = 0 ORDER BY position LIMIT ?`,
		int64(from), int64(to), limit)
	return out, err
}

// RoomsSince tells which of the rooms got events in from < p <= to.
func (s Events) RoomsSince(rooms []RoomNID, from, to stream.Position) ([]RoomNID, error) {
	var out []RoomNID
	for chunk := range slices.Chunk(rooms, 500) {
		plain := make([]int64, len(chunk))
		for i, n := range chunk {
			plain[i] = int64(n)
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var n RoomNID
			if err := rows.Scan(&n); err != nil {
				return err
			}
			out = append(out, n)
			return nil
		}, `SELECT nid FROM rooms WHERE nid IN (?) AND EXISTS (SELECT 1 FROM events WHERE room_nid = rooms.nid AND position > ? AND position <= ? AND position IS NOT NULL)`,
			bun.In(plain), int64(from), int64(to))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// load reads events and remembers them, unless this transaction might still be undone.
func (s Events) load(add func(*Event), query string, args ...any) error {
	var list []*Event
	err := s.tx.query(func(rows *sql.Rows) error {
		e, eventID, position, status, raw := &Event{}, "", sql.NullInt64{}, int64(0), []byte(nil)
		if err := rows.Scan(&e.NID, &eventID, &e.Room, &position, &e.StateBefore, &status, &e.RedactedBy, &raw); err != nil {
			return err
		}
		e.Position = stream.Position(position.Int64)
		e.Rejected, e.SoftFailed = status&bitRejected != 0, status&bitSoftFailed != 0
		e.Withheld = status&bitWithheld != 0
		e.Event = &event.Event{ID: id.EventID(eventID), JSON: raw}
		list = append(list, e)
		return nil
	}, query, args...)
	if err != nil {
		return err
	}
	for _, e := range list {
		room, err := s.tx.Rooms.ByNID(e.Room)
		if err == nil && room == nil {
			err = fmt.Errorf("event %s stands in no room", e.ID)
		}
		if err != nil {
			return err
		}
		if e.Event, err = event.ParseTrusted(room.Version, e.ID, e.JSON); err != nil {
			return fmt.Errorf("stored event %d: %w", e.NID, err)
		}
		add(e)
		if !s.tx.writable && e.Position != 0 {
			s.tx.db.cache.events.SetIfAbsent(e.NID, e)
			s.tx.db.cache.eventIDs.SetIfAbsent(e.ID, e.NID)
		}
	}
	return nil
}
