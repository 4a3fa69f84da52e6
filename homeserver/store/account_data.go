package store

import (
	"database/sql"
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// AccountDatum is one piece of a user's account data.
type AccountDatum struct {
	Room     id.RoomID // empty: global
	Type     string
	Content  json.RawMessage
	Position stream.Position
}

// AccountData is what clients keep here for their user.
type AccountData struct{ tx *Tx }

// Get reads a piece of account data, global if the room is empty; false if there is none.
func (s AccountData) Get(user id.UserID, room id.RoomID, typ string) (json.RawMessage, bool, error) {
	var content string
	ok, err := s.tx.row([]any{&content}, `SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?`, string(user), string(room), typ)
	return json.RawMessage(content), ok, err
}

// Set logs, counts and writes a piece of account data. Of a user who has been erased nothing is kept: requests that came in before
// may still be on their way.
func (s AccountData) Set(user id.UserID, room id.RoomID, typ string, content json.RawMessage) {
	change := stream.Change{Kind: stream.AccountData, Room: room, User: user, Wake: []id.UserID{user}}
	s.tx.Log(change, func(p stream.Position) error {
		size, former := len(room)+len(typ)+len(content), 0
		_, err := s.tx.row([]any{&former}, `SELECT octet_length(room_id) + octet_length(type) + octet_length(content) FROM account_data
			WHERE user_id = ? AND room_id = ? AND type = ?`, string(user), string(room), typ)
		if err != nil {
			return err
		}
		n, err := s.tx.exec(`INSERT INTO account_data (user_id, room_id, type, content, position) SELECT ?, ?, ?, ?, ?
			WHERE NOT EXISTS (SELECT 1 FROM users WHERE user_id = ? AND erased)
			ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, position = excluded.position`,
			string(user), string(room), typ, string(content), int64(p), string(user))
		if err != nil || n == 0 {
			return err
		}
		return s.tx.Stored.add(user, StoredAccountData, size-former)
	})
}

// Count is how many pieces of account data a user has.
func (s AccountData) Count(user id.UserID) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM account_data WHERE user_id = ?`, string(user))
	return n, err
}

// Changed lists the account data of a user, global and of rooms, that was written in from < p <= to, in order.
func (s AccountData) Changed(user id.UserID, from, to stream.Position) ([]AccountDatum, error) {
	return s.list(`WHERE user_id = ? AND position > ? AND position <= ? ORDER BY position`, string(user), int64(from), int64(to))
}

// ByRoom lists the account data of a user in a room; the global ones if the room is empty.
func (s AccountData) ByRoom(user id.UserID, room id.RoomID) ([]AccountDatum, error) {
	return s.list(`WHERE user_id = ? AND room_id = ? ORDER BY position`, string(user), string(room))
}

func (s AccountData) list(where string, args ...any) ([]AccountDatum, error) {
	var out []AccountDatum
	err := s.tx.query(func(rows *sql.Rows) error {
		var d AccountDatum
		var content string
		if err := rows.Scan(&d.Room, &d.Type, &content, &d.Position); err != nil {
			return err
		}
		d.Content = json.RawMessage(content)
		out = append(out, d)
		return nil
	}, `SELECT room_id, type, content, position FROM account_data `+where, args...)
	return out, err
}

// DeleteSome removes account data of a user, without a word in the log: at most limit pieces, and returns how many.
func (s AccountData) DeleteSome(user id.UserID, limit int) (int64, error) {
	n, err := s.tx.exec(deleteSome(s.tx.db.postgres, "account_data", `user_id = ?`), string(user), limit)
	if err != nil || n == int64(limit) {
		return n, err
	}
	return n, s.tx.Stored.clear(user, StoredAccountData)
}
