package store

import (
	"database/sql"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Alias is a room alias of this server.
type Alias struct {
	Alias   id.RoomAlias
	Room    id.RoomID
	Creator id.UserID
}

// Aliases are the room aliases of this server.
type Aliases struct{ tx *Tx }

// Insert adds an alias; false if it is taken.
func (s Aliases) Insert(a Alias) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO aliases (alias, room_id, creator) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, string(a.Alias), string(a.Room), string(a.Creator))
	return n == 1, err
}

// Delete removes an alias.
func (s Aliases) Delete(alias id.RoomAlias) error {
	_, err := s.tx.exec(`DELETE FROM aliases WHERE alias = ?`, string(alias))
	return err
}

// Get finds an alias; nil if there is none.
func (s Aliases) Get(alias id.RoomAlias) (*Alias, error) {
	a := &Alias{Alias: alias}
	ok, err := s.tx.row([]any{&a.Room, &a.Creator}, `SELECT room_id, creator FROM aliases WHERE alias = ?`, string(alias))
	if err != nil || !ok {
		return nil, err
	}
	return a, nil
}

// OfRoom lists the aliases of a room.
func (s Aliases) OfRoom(room id.RoomID) ([]id.RoomAlias, error) {
	var out []id.RoomAlias
	err := s.tx.query(func(rows *sql.Rows) error {
		var a id.RoomAlias
		if err := rows.Scan(&a); err != nil {
			return err
		}
		out = append(out, a)
		return nil
	}, `SELECT alias FROM aliases WHERE room_id = ? ORDER BY alias`, string(room))
	return out, err
}

// Count is how many aliases a room has.
func (s Aliases) Count(room id.RoomID) (int64, error) {
	var n int64
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM aliases WHERE room_id = ?`, string(room))
	return n, err
}

// Move gives all aliases of a room to another one.
func (s Aliases) Move(from, to id.RoomID) error {
	_, err := s.tx.exec(`UPDATE aliases SET room_id = ? WHERE room_id = ?`, string(to), string(from))
	return err
}
