package store

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// OneTimeKey is a one-time or fallback key of a device.
type OneTimeKey struct {
	User      id.UserID
	Device    id.DeviceID
	Algorithm string
	ID        string
	JSON      []byte
}

// KeyWant asks for one key of a device.
type KeyWant struct {
	User      id.UserID
	Device    id.DeviceID
	Algorithm string
}

// KeyCounts tell a device when it has to upload keys. They are shared: do not change them.
type KeyCounts struct {
	OneTime        map[string]int // by algorithm: how many are left
	UnusedFallback []string       // algorithms whose fallback key has not been given out
}

// OneTimeKeys are the one-time and fallback keys of local devices.
type OneTimeKeys struct{ tx *Tx }

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

// cachedCounts are the counts of a device, or the mark that they changed at a position.
type cachedCounts struct {
	counts  *KeyCounts // nil: have to be read
	changed stream.Position
}

// Counts are the counts of a device's keys.
func (s OneTimeKeys) Counts(user id.UserID, device id.DeviceID) (KeyCounts, error) {
	if s.tx.writable {
		return s.readCounts(user, device)
	}
	name, cache := deviceName{user, device}, s.tx.db.cache.keyCounts
	if cached, ok := cache.GetIfPresent(name); ok && cached.counts != nil {
		return *cached.counts, nil
	}
	counts, err := s.readCounts(user, device)
	if err != nil {
		return KeyCounts{}, err
	}
	seen, err := s.tx.Position()
	if err != nil {
		return KeyCounts{}, err
	}
	// This snapshot may be older than a change that has marked the entry since.
	cache.Compute(name, func(old cachedCounts, found bool) (cachedCounts, otter.ComputeOp) {
		if found && old.changed > seen {
			return old, otter.CancelOp
		}
		return cachedCounts{&counts, seen}, otter.WriteOp
	})
	return counts, nil
}

func (s OneTimeKeys) readCounts(user id.UserID, device id.DeviceID) (KeyCounts, error) {
	counts := KeyCounts{OneTime: map[string]int{}}
	err := s.tx.query(func(rows *sql.Rows) error {
		var algorithm string
		var n int
		if err := rows.Scan(&algorithm, &n); err != nil {
			return err
		}
		if n < 0 {
			counts.UnusedFallback = append(counts.UnusedFallback, algorithm)
		} else {
			counts.OneTime[algorithm] = n
		}
		return nil
	}, `SELECT algorithm, count(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? GROUP BY algorithm
		UNION ALL SELECT algorithm, -1 FROM fallback_keys WHERE user_id = ? AND device_id = ? AND NOT used`,
		string(user), string(device), string(user), string(device))
	slices.Sort(counts.UnusedFallback)
	return counts, err
}

// Size is how many bytes the one-time and fallback keys of a user have, and how many fallback keys a device has.
func (s OneTimeKeys) Size(user id.UserID, device id.DeviceID) (size, fallback int, err error) {
	_, err = s.tx.row([]any{&size, &fallback}, `SELECT
		(SELECT coalesce(sum(octet_length(key)), 0) FROM one_time_keys WHERE user_id = ?) +
		(SELECT coalesce(sum(octet_length(key)), 0) FROM fallback_keys WHERE user_id = ?),
		(SELECT count(*) FROM fallback_keys WHERE user_id = ? AND device_id = ?)`, string(user), string(user), string(user), string(device))
	return size, fallback, err
}

// touch logs that the counts of a device change.
func (s OneTimeKeys) touch(user id.UserID, device id.DeviceID) {
	var at stream.Position
	s.tx.Log(stream.Change{Kind: stream.KeyCount, User: user, Device: device, Wake: []id.UserID{user}}, func(p stream.Position) error {
		at = p
		return nil
	})
	cache := s.tx.db.cache.keyCounts
	s.tx.AfterCommit(func() { cache.Set(deviceName{user, device}, cachedCounts{changed: at}) })
}

// Find reads those of the keys named that are there.
func (s OneTimeKeys) Find(user id.UserID, device id.DeviceID, keys []OneTimeKey) ([]OneTimeKey, error) {
	var out []OneTimeKey
	for chunk := range slices.Chunk(keys, 500) {
		names := make([][]string, len(chunk))
		for i, k := range chunk {
			names[i] = []string{k.Algorithm, k.ID}
		}
		err := s.collect(&out, `SELECT user_id, device_id, algorithm, key_id, key FROM one_time_keys
			WHERE user_id = ? AND device_id = ? AND (algorithm, key_id) IN (VALUES ?)`, string(user), string(device), bun.In(names))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Insert adds one-time keys of one device. They are given out after those that are there.
func (s OneTimeKeys) Insert(user id.UserID, device id.DeviceID, keys []OneTimeKey) error {
	var serial int64
	_, err := s.tx.row([]any{&serial}, `SELECT coalesce(max(serial), 0) + 1 FROM one_time_keys WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(keys, 50) {
		args := make([]any, 0, 6*len(chunk))
		for _, k := range chunk {
			args = append(args, string(user), string(device), k.Algorithm, k.ID, serial, k.JSON)
		}
		_, err := s.tx.exec(`INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, serial, key) VALUES `+places(len(chunk), 6), args...)
		if err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		s.touch(user, device)
	}
	return nil
}

// places is the text for the values of some rows: (?, ?), (?, ?), …
func places(rows, columns int) string {
	row := "(" + strings.Repeat("?, ", columns-1) + "?)"
	return strings.Repeat(row+", ", rows-1) + row
}

// SetFallback replaces the fallback key of an algorithm, unless it is the one that is there.
func (s OneTimeKeys) SetFallback(k OneTimeKey) error {
	n, err := s.tx.exec(`INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, key, used) VALUES (?, ?, ?, ?, ?, FALSE)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, used = FALSE
		WHERE fallback_keys.key_id <> excluded.key_id OR fallback_keys.key <> excluded.key`,
		string(k.User), string(k.Device), k.Algorithm, k.ID, k.JSON)
	if err == nil && n > 0 {
		s.touch(k.User, k.Device)
	}
	return err
}

// Claimed tells for those of the keys named that were given out whether each was the same as now.
func (s OneTimeKeys) Claimed(user id.UserID, device id.DeviceID, keys []OneTimeKey) (map[[2]string]bool, error) {
	out, hashes := map[[2]string]bool{}, make(map[[2]string][sha256.Size]byte, len(keys))
	for chunk := range slices.Chunk(keys, 500) {
		names := make([][]string, len(chunk))
		for i, k := range chunk {
			names[i] = []string{k.Algorithm, k.ID}
			hashes[[2]string{k.Algorithm, k.ID}] = sha256.Sum256(k.JSON)
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var name [2]string
			var hash []byte
			if err := rows.Scan(&name[0], &name[1], &hash); err != nil {
				return err
			}
			now := hashes[name]
			out[name] = bytes.Equal(hash, now[:])
			return nil
		}, `SELECT algorithm, key_id, hash FROM claimed_keys WHERE user_id = ? AND device_id = ? AND (algorithm, key_id) IN (VALUES ?)`,
			string(user), string(device), bun.In(names))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// noteClaimed remembers keys that are given out.
func (s OneTimeKeys) noteClaimed(keys []OneTimeKey) error {
	serial := time.Now().UnixMicro()
	for chunk := range slices.Chunk(keys, 50) {
		args := make([]any, 0, 6*len(chunk))
		for _, k := range chunk {
			hash := sha256.Sum256(k.JSON)
			args = append(args, string(k.User), string(k.Device), k.Algorithm, k.ID, serial, hash[:])
			serial++
		}
		_, err := s.tx.exec(`INSERT INTO claimed_keys (user_id, device_id, algorithm, key_id, serial, hash) VALUES `+places(len(chunk), 6)+`
			ON CONFLICT (user_id, device_id, algorithm, key_id) DO UPDATE SET serial = excluded.serial, hash = excluded.hash`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// moreForgotten is how many claims of a user are forgotten beyond as many as have come, if there are too many.
const moreForgotten = 100

// boundClaimed counts keys that were given out, and forgets the oldest claims of users of whom more than keep are remembered.
func (s OneTimeKeys) boundClaimed(keys []OneTimeKey, keep int) error {
	more := map[id.UserID]int{}
	for _, k := range keys {
		more[k.User]++
	}
	counts, err := s.tx.Stored.addAll(StoredClaims, more)
	for user, n := range counts {
		if over := min(int(n)-keep, more[user]+moreForgotten); err == nil && over > 0 {
			var gone int64
			gone, err = s.tx.exec(`DELETE FROM claimed_keys WHERE user_id = ? AND serial <=
				(SELECT serial FROM claimed_keys WHERE user_id = ? ORDER BY serial LIMIT 1 OFFSET ?)`, string(user), string(user), over-1)
			if err == nil {
				err = s.tx.Stored.add(user, StoredClaims, -int(gone))
			}
		}
	}
	return err
}

// Available are those of the wants that a one-time or a fallback key is there for.
func (s OneTimeKeys) Available(wants []KeyWant) ([]KeyWant, error) {
	var out []KeyWant
	for chunk := range slices.Chunk(wants, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var w KeyWant
			if err := rows.Scan(&w.User, &w.Device, &w.Algorithm); err != nil {
				return err
			}
			out = append(out, w)
			return nil
		}, `WITH w (user_id, device_id, algorithm) AS (VALUES ?) SELECT user_id, device_id, algorithm FROM w WHERE
			EXISTS (SELECT 1 FROM one_time_keys k WHERE k.user_id = w.user_id AND k.device_id = w.device_id AND k.algorithm = w.algorithm) OR
			EXISTS (SELECT 1 FROM fallback_keys k WHERE k.user_id = w.user_id AND k.device_id = w.device_id AND k.algorithm = w.algorithm)`,
			bun.In(wanted(chunk)))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Claim takes one one-time key for each want, the oldest first; each key is returned once and never again.
// Of a want that occurs twice only one is served. Of a user's keys that were claimed the newest are remembered, as many as keep.
func (s OneTimeKeys) Claim(wants []KeyWant, keep int) ([]OneTimeKey, error) {
	var out []OneTimeKey
	for chunk := range slices.Chunk(wants, 500) {
		err := s.collect(&out, `DELETE FROM one_time_keys WHERE (user_id, device_id, algorithm, key_id) IN (
			SELECT user_id, device_id, algorithm, key_id FROM (
				SELECT user_id, device_id, algorithm, key_id,
					row_number() OVER (PARTITION BY user_id, device_id, algorithm ORDER BY serial, key_id) AS place
				FROM one_time_keys WHERE (user_id, device_id, algorithm) IN (VALUES ?)) AS queue WHERE place = 1)
			RETURNING user_id, device_id, algorithm, key_id, key`, bun.In(wanted(chunk)))
		if err != nil {
			return nil, err
		}
	}
	s.touchAll(out)
	if err := s.noteClaimed(out); err != nil {
		return nil, err
	}
	return out, s.boundClaimed(out, keep)
}

// ClaimFallback reads the fallback keys that are wanted and notes that they were given out.
func (s OneTimeKeys) ClaimFallback(wants []KeyWant) ([]OneTimeKey, error) {
	var out, fresh []OneTimeKey
	for chunk := range slices.Chunk(wants, 500) {
		tuples := bun.In(wanted(chunk))
		err := s.collect(&fresh, `UPDATE fallback_keys SET used = TRUE WHERE NOT used AND (user_id, device_id, algorithm) IN (VALUES ?)
			RETURNING user_id, device_id, algorithm, key_id, key`, tuples)
		if err != nil {
			return nil, err
		}
		err = s.collect(&out, `SELECT user_id, device_id, algorithm, key_id, key FROM fallback_keys
			WHERE (user_id, device_id, algorithm) IN (VALUES ?)`, tuples)
		if err != nil {
			return nil, err
		}
	}
	s.touchAll(fresh)
	return out, nil
}

func wanted(wants []KeyWant) [][]string {
	out := make([][]string, len(wants))
	for i, w := range wants {
		out[i] = []string{string(w.User), string(w.Device), w.Algorithm}
	}
	return out
}

func (s OneTimeKeys) touchAll(keys []OneTimeKey) {
	seen := make(map[deviceName]bool, len(keys))
	for _, k := range keys {
		if name := (deviceName{k.User, k.Device}); !seen[name] {
			seen[name] = true
			s.touch(k.User, k.Device)
		}
	}
}

func (s OneTimeKeys) collect(into *[]OneTimeKey, text string, args ...any) error {
	return s.tx.query(func(rows *sql.Rows) error {
		var k OneTimeKey
		if err := rows.Scan(&k.User, &k.Device, &k.Algorithm, &k.ID, &k.JSON); err != nil {
			return err
		}
		*into = append(*into, k)
		return nil
	}, text, args...)
}

// UseUp removes all one-time keys of a device and notes that its fallback keys were given out.
func (s OneTimeKeys) UseUp(user id.UserID, device id.DeviceID) error {
	n, err := s.tx.exec(`DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	if err != nil {
		return err
	}
	used, err := s.tx.exec(`UPDATE fallback_keys SET used = TRUE WHERE NOT used AND user_id = ? AND device_id = ?`, string(user), string(device))
	if err == nil && n+used > 0 {
		s.touch(user, device)
	}
	return err
}

// DeleteDevices removes all one-time and fallback keys of some devices.
func (s OneTimeKeys) DeleteDevices(user id.UserID, devices []id.DeviceID) error {
	for _, table := range []string{"one_time_keys", "fallback_keys"} {
		if _, err := s.tx.exec(`DELETE FROM `+table+` WHERE user_id = ? AND device_id IN (?)`, string(user), bun.In(devices)); err != nil {
			return err
		}
	}
	claimed, err := s.tx.exec(`DELETE FROM claimed_keys WHERE user_id = ? AND device_id IN (?)`, string(user), bun.In(devices))
	if err != nil {
		return err
	}
	for _, device := range devices {
		s.touch(user, device)
	}
	return s.tx.Stored.add(user, StoredClaims, -int(claimed))
}
