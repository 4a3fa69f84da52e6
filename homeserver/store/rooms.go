package store

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// RoomNID is the number of a room in this database.
type RoomNID int64

// Room is what never changes about a room.
type Room struct {
	NID     RoomNID
	ID      id.RoomID
	Version *event.Version
}

// Extremity is an event of a room that no other event follows yet.
type Extremity struct {
	NID   EventNID
	ID    id.EventID
	Depth int64
	State StateNID // before the event, or resolved from it and other ends
	Key   int64    // the piece of state that the event sets on top of State; 0: none
	Old   bool     // in the row of the head State and Key are missing
	Stays bool     // it speaks for others too, until an event of this server names it; only of further ends
}

// Head is where a room stands. Seq grows by one with every change. State is the current state, which all ends have a say in;
// Extremities are the newest of them, the last one the newest of all. Head has no more of them: see Ends.
type Head struct {
	Seq         int64
	State       StateNID
	Extremities []Extremity
}

// Summary is what lists of rooms show of one.
type Summary struct {
	Name, Topic, AvatarURL, CanonicalAlias   string
	JoinRule, HistoryVisibility, GuestAccess string
	RoomType, Encryption                     string
	JoinedMembers, InvitedMembers            int64
	Published                                bool
}

// Size is about how many bytes a summary takes.
func (s *Summary) Size() int {
	return 200 + len(s.Name) + len(s.Topic) + len(s.AvatarURL) + len(s.CanonicalAlias) +
		len(s.JoinRule) + len(s.HistoryVisibility) + len(s.GuestAccess) + len(s.RoomType) + len(s.Encryption)
}

// Rooms are the rooms, their heads and their summaries.
type Rooms struct{ tx *Tx }

// Insert adds a room and its first head. If that is empty, nobody is in the room yet.
func (r Rooms) Insert(room *Room, h Head) error {
	if _, err := r.tx.exec(`INSERT INTO rooms (nid, room_id, version) VALUES (?, ?, ?)`, int64(room.NID), string(room.ID), string(room.Version.ID)); err != nil {
		return err
	}
	_, err := r.tx.exec(`INSERT INTO room_heads (room_nid, seq, state, extremities) VALUES (?, ?, ?, ?)`,
		int64(room.NID), h.Seq, int64(h.State), encodeExtremities(h.Extremities))
	if err == nil && h.Seq == 0 {
		err = r.Unwanted(room.NID)
	}
	return err
}

// SetVersion corrects the version of a room of which no event has its place yet.
func (r Rooms) SetVersion(room *Room) error {
	_, err := r.tx.exec(`UPDATE rooms SET version = ? WHERE nid = ?`, string(room.Version.ID), int64(room.NID))
	r.tx.AfterCommit(func() {
		r.tx.db.cache.rooms.Set(room.ID, room)
		r.tx.db.cache.roomNIDs.Set(room.NID, room)
	})
	return err
}

// ByID finds a room; nil if there is none.
func (r Rooms) ByID(roomID id.RoomID) (*Room, error) {
	if room, ok := r.tx.db.cache.rooms.GetIfPresent(roomID); ok {
		return room, nil
	}
	return r.load(`SELECT nid, room_id, version FROM rooms WHERE room_id = ?`, string(roomID))
}

// ByNID finds a room; nil if there is none.
func (r Rooms) ByNID(nid RoomNID) (*Room, error) {
	if room, ok := r.tx.db.cache.roomNIDs.GetIfPresent(nid); ok {
		return room, nil
	}
	return r.load(`SELECT nid, room_id, version FROM rooms WHERE nid = ?`, int64(nid))
}

func (r Rooms) load(query string, key any) (*Room, error) {
	room, version := &Room{}, ""
	ok, err := r.tx.row([]any{&room.NID, &room.ID, &version}, query, key)
	if err != nil || !ok {
		return nil, err
	}
	if room.Version, ok = event.VersionOf(id.RoomVersion(version)); !ok {
		return nil, fmt.Errorf("room %s has the unknown version %q", room.ID, version)
	}
	if !r.tx.writable {
		r.tx.db.cache.rooms.Set(room.ID, room)
		r.tx.db.cache.roomNIDs.Set(room.NID, room)
	}
	return room, nil
}

// Head reads where a room stands.
func (r Rooms) Head(nid RoomNID) (Head, error) {
	var h Head
	var extremities string
	ok, err := r.tx.row([]any{&h.Seq, &h.State, &extremities}, `SELECT seq, state, extremities FROM room_heads WHERE room_nid = ?`, int64(nid))
	if err != nil {
		return h, err
	}
	if !ok {
		return h, fmt.Errorf("room %d has no head", nid)
	}
	if h.Extremities, err = decodeExtremities(extremities); err != nil {
		return h, err
	}
	for i := range h.Extremities {
		if err := r.complete(&h.Extremities[i]); err != nil {
			return h, err
		}
	}
	return h, nil
}

// complete finds what former versions did not write of an end.
func (r Rooms) complete(x *Extremity) error {
	if !x.Old {
		return nil
	}
	list, err := r.tx.Events.ByNID(x.NID)
	if err != nil || len(list) == 0 {
		return cmp.Or(err, fmt.Errorf("extremity %s is not here", x.ID))
	}
	if x.State = list[0].StateBefore; list[0].StateKey != nil {
		x.Key, err = r.tx.States.FindKey(list[0].Tuple())
	}
	return err
}

// SwapHead replaces the head of a room if it is still the one expected; false if not. Extremities are
// compared too: another process may have counted as far on events of its own.
func (r Rooms) SwapHead(nid RoomNID, expected, h Head) (bool, error) {
	n, err := r.tx.exec(`UPDATE room_heads SET seq = ?, state = ?, extremities = ? WHERE room_nid = ? AND seq = ? AND extremities = ?`,
		h.Seq, int64(h.State), encodeExtremities(h.Extremities), int64(nid), expected.Seq, encodeExtremities(expected.Extremities))
	return n == 1, err
}

// Ends reads the ends of a room that are not among its head's, the oldest first. A room whose purge has begun has none.
func (r Rooms) Ends(nid RoomNID) ([]Extremity, error) {
	var out []Extremity
	err := r.tx.query(func(rows *sql.Rows) error {
		var x Extremity
		if err := rows.Scan(&x.NID, &x.ID, &x.Depth, &x.State, &x.Key, &x.Stays); err != nil {
			return err
		}
		out = append(out, x)
		return nil
	}, `SELECT event_nid, event_id, depth, state, state_key, stays FROM further_ends f WHERE room_nid = ? AND NOT EXISTS (
		SELECT 1 FROM unwanted_rooms u WHERE u.room_nid = f.room_nid AND u.purging) ORDER BY event_nid`, int64(nid))
	return out, err
}

// AddEnds writes ends that the head has no place for.
func (r Rooms) AddEnds(nid RoomNID, ends []Extremity) error {
	for _, x := range ends {
		_, err := r.tx.exec(`INSERT INTO further_ends (room_nid, event_nid, event_id, depth, state, state_key, stays) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			int64(nid), int64(x.NID), string(x.ID), x.Depth, int64(x.State), x.Key, x.Stays)
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteEnds removes some of what AddEnds wrote.
func (r Rooms) DeleteEnds(nid RoomNID, ends []EventNID) error {
	for chunk := range slices.Chunk(ends, 500) {
		plain := make([]int64, len(chunk))
		for i, n := range chunk {
			plain[i] = int64(n)
		}
		if _, err := r.tx.exec(`DELETE FROM further_ends WHERE room_nid = ? AND event_nid IN (?)`, int64(nid), bun.In(plain)); err != nil {
			return err
		}
	}
	return nil
}

// StayEnd has an end stay, whoever names it, until it is deleted.
func (r Rooms) StayEnd(nid RoomNID, end EventNID) error {
	_, err := r.tx.exec(`UPDATE further_ends SET stays = TRUE WHERE room_nid = ? AND event_nid = ?`, int64(nid), int64(end))
	return err
}

// FoldEnds lets one state speak for all that AddEnds wrote.
func (r Rooms) FoldEnds(nid RoomNID, state StateNID) error {
	_, err := r.tx.exec(`UPDATE further_ends SET state = ?, state_key = 0 WHERE room_nid = ?`, int64(state), int64(nid))
	return err
}

const summaryColumns = `name, topic, avatar_url, canonical_alias, join_rule, history_visibility, guest_access, room_type, encryption, joined_members, invited_members, published`

func (s *Summary) fields() []any {
	return []any{&s.Name, &s.Topic, &s.AvatarURL, &s.CanonicalAlias, &s.JoinRule, &s.HistoryVisibility, &s.GuestAccess, &s.RoomType, &s.Encryption, &s.JoinedMembers, &s.InvitedMembers, &s.Published}
}

// Summary reads the summary of a room.
func (r Rooms) Summary(nid RoomNID) (Summary, error) {
	var s Summary
	_, err := r.tx.row(s.fields(), `SELECT `+summaryColumns+` FROM rooms WHERE nid = ?`, int64(nid))
	return s, err
}

// SetSummary writes the summary of a room, except whether it is published.
func (r Rooms) SetSummary(nid RoomNID, s Summary) error {
	_, err := r.tx.exec(`UPDATE rooms SET name = ?, topic = ?, avatar_url = ?, canonical_alias = ?, join_rule = ?, history_visibility = ?,
		guest_access = ?, room_type = ?, encryption = ?, joined_members = ?, invited_members = ? WHERE nid = ?`,
		s.Name, s.Topic, s.AvatarURL, s.CanonicalAlias, s.JoinRule, s.HistoryVisibility, s.GuestAccess, s.RoomType, s.Encryption,
		s.JoinedMembers, s.InvitedMembers, int64(nid))
	return err
}

// SetPublished says whether a room stands in the public room list.
func (r Rooms) SetPublished(nid RoomNID, published bool) error {
	_, err := r.tx.exec(`UPDATE rooms SET published = ? WHERE nid = ?`, published, int64(nid))
	return err
}

// Succeed gives the aliases of a room, and its place in the public room list if it has one, to another one.
func (r Rooms) Succeed(old, next *Room) error {
	if err := r.tx.Aliases.Move(old.ID, next.ID); err != nil {
		return err
	}
	n, err := r.tx.exec(`UPDATE rooms SET published = FALSE WHERE nid = ? AND published`, int64(old.NID))
	if err != nil || n == 0 {
		return err
	}
	return r.SetPublished(next.NID, true)
}

func escapeLike(s string) string {
	out := make([]byte, 0, len(s))
	for _, c := range []byte(s) {
		if c == '!' || c == '%' || c == '_' {
			out = append(out, '!')
		}
		out = append(out, c)
	}
	return string(out)
}

// encodeExtremities writes [number, ID, depth, state, state key] of each. Those without the last two were written so before.
func encodeExtremities(list []Extremity) string {
	rows := make([][]any, len(list))
	for i, x := range list {
		if rows[i] = []any{x.NID, x.ID, x.Depth, x.State, x.Key}; x.Old {
			rows[i] = rows[i][:3]
		}
	}
	text, _ := json.Marshal(rows) // numbers and strings always encode
	return string(text)
}

func decodeExtremities(text string) ([]Extremity, error) {
	var rows [][]json.RawMessage
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, fmt.Errorf("extremities: %w", err)
	}
	list := make([]Extremity, len(rows))
	for i, row := range rows {
		x := &list[i]
		fields := []any{&x.NID, &x.ID, &x.Depth, &x.State, &x.Key}
		if x.Old = len(row) == 3; x.Old {
			fields = fields[:3]
		}
		if len(row) != len(fields) {
			return nil, fmt.Errorf("extremities: one has %d members", len(row))
		}
		for j, dest := range fields {
			if err := json.Unmarshal(row[j], dest); err != nil {
				return nil, fmt.Errorf("extremities: %w", err)
			}
		}
	}
	return list, nil
}
