package store

import (
	"database/sql"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// ServerKey is a signing key of another server.
type ServerKey struct {
	Server     id.ServerName
	KeyID      id.KeyID
	Public     []byte
	ValidUntil int64 // milliseconds since 1970: until when it is or was valid
	Expired    bool  // the server lists it among its old keys
	Fetched    int64 // milliseconds since 1970
}

// ServerKeyList is a signed list of a server's keys as it came.
type ServerKeyList struct {
	Server     id.ServerName
	ValidUntil int64 // milliseconds since 1970
	Fetched    int64
	JSON       []byte
}

// ServerKeys are the signing keys of other servers.
type ServerKeys struct{ tx *Tx }

// Of reads all known keys of some servers.
func (s ServerKeys) Of(servers ...id.ServerName) ([]ServerKey, error) {
	var out []ServerKey
	for chunk := range slices.Chunk(plainNames(servers), 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var k ServerKey
			if err := rows.Scan(&k.Server, &k.KeyID, &k.Public, &k.ValidUntil, &k.Expired, &k.Fetched); err != nil {
				return err
			}
			out = append(out, k)
			return nil
		}, `SELECT server, key_id, public_key, valid_until, expired, fetched FROM server_keys WHERE server IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Put writes keys over what was known of them.
func (s ServerKeys) Put(keys ...ServerKey) error {
	for _, k := range keys {
		_, err := s.tx.exec(`INSERT INTO server_keys (server, key_id, public_key, valid_until, expired, fetched) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, valid_until = excluded.valid_until,
			expired = excluded.expired, fetched = excluded.fetched`,
			string(k.Server), string(k.KeyID), k.Public, k.ValidUntil, k.Expired, k.Fetched)
		if err != nil {
			return err
		}
	}
	return nil
}

// Lists reads the newest signed lists of some servers.
func (s ServerKeys) Lists(servers ...id.ServerName) ([]ServerKeyList, error) {
	var out []ServerKeyList
	for chunk := range slices.Chunk(plainNames(servers), 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var l ServerKeyList
			if err := rows.Scan(&l.Server, &l.ValidUntil, &l.Fetched, &l.JSON); err != nil {
				return err
			}
			out = append(out, l)
			return nil
		}, `SELECT server, valid_until, fetched, json FROM server_key_lists WHERE server IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// PutList replaces a server's signed list.
func (s ServerKeys) PutList(l ServerKeyList) error {
	_, err := s.tx.exec(`INSERT INTO server_key_lists (server, valid_until, fetched, json) VALUES (?, ?, ?, ?)
		ON CONFLICT (server) DO UPDATE SET valid_until = excluded.valid_until, fetched = excluded.fetched, json = excluded.json`,
		string(l.Server), l.ValidUntil, l.Fetched, l.JSON)
	return err
}

// Prune forgets keys that have not been valid since a time, at most limit, and returns how many.
func (s ServerKeys) Prune(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "server_keys", `valid_until < ?`), before.UnixMilli(), limit)
}

// PruneLists forgets lists fetched before a time, at most limit, and returns how many.
func (s ServerKeys) PruneLists(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "server_key_lists", `fetched < ?`), before.UnixMilli(), limit)
}

func plainNames(servers []id.ServerName) []string {
	out := make([]string, len(servers))
	for i, n := range servers {
		out[i] = string(n)
	}
	return out
}
