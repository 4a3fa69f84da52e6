package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// SigningKey is a cross-signing key of a user.
type SigningKey struct {
	User  id.UserID
	Usage string // "master", "self_signing" or "user_signing"
	ID    string // the public key, in base64
	JSON  []byte // canonical, without "unsigned"
}

// UserSignature is what a local user signed of another user.
type UserSignature struct {
	Signer, Target id.UserID
	KeyID          string // the master key that is signed
	SignedBy       string // the user-signing key
	Signatures     []byte // canonical JSON: key ID to signature
}

// CrossSigning are the cross-signing keys of users, and what users signed with them.
type CrossSigning struct{ tx *Tx }

// ByUsers reads the cross-signing keys of users.
func (s CrossSigning) ByUsers(users []id.UserID) ([]SigningKey, error) {
	var out []SigningKey
	for chunk := range slices.Chunk(users, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var k SigningKey
			if err := rows.Scan(&k.User, &k.Usage, &k.ID, &k.JSON); err != nil {
				return err
			}
			out = append(out, k)
			return nil
		}, `SELECT user_id, usage, key_id, key FROM cross_signing_keys WHERE user_id IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Set writes a cross-signing key in place of the one of the same usage.
func (s CrossSigning) Set(k SigningKey) error {
	_, err := s.tx.exec(`INSERT INTO cross_signing_keys (user_id, usage, key_id, key) VALUES (?, ?, ?, ?)
		ON CONFLICT (user_id, usage) DO UPDATE SET key_id = excluded.key_id, key = excluded.key`,
		string(k.User), k.Usage, k.ID, k.JSON)
	return err
}

// Delete removes a cross-signing key.
func (s CrossSigning) Delete(user id.UserID, usage string) error {
	_, err := s.tx.exec(`DELETE FROM cross_signing_keys WHERE user_id = ? AND usage = ?`, string(user), usage)
	return err
}

// DeleteUser removes all cross-signing keys of a user.
func (s CrossSigning) DeleteUser(user id.UserID) error {
	_, err := s.tx.exec(`DELETE FROM cross_signing_keys WHERE user_id = ?`, string(user))
	return err
}

// SetSignature logs and writes a signature, of which only the signer hears.
func (s CrossSigning) SetSignature(g UserSignature) {
	change := stream.Change{Kind: stream.DeviceList, User: g.Target, Wake: []id.UserID{g.Signer}}
	s.tx.Log(change, func(p stream.Position) error {
		_, err := s.tx.exec(`INSERT INTO user_signatures (signer, target, key_id, signed_by, signatures, position) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (signer, target) DO UPDATE SET
			key_id = excluded.key_id, signed_by = excluded.signed_by, signatures = excluded.signatures, position = excluded.position`,
			string(g.Signer), string(g.Target), g.KeyID, g.SignedBy, g.Signatures, int64(p))
		return err
	})
}

// bySigner is the present user-signing key of who made a signature g.
const bySigner = `coalesce((SELECT k.key_id FROM cross_signing_keys k WHERE k.user_id = g.signer AND k.usage = 'user_signing'), '')`

// Signatures reads what a user signed of some others with the present user-signing key.
func (s CrossSigning) Signatures(signer id.UserID, targets []id.UserID) ([]UserSignature, error) {
	var out []UserSignature
	for chunk := range slices.Chunk(targets, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			g := UserSignature{Signer: signer}
			if err := rows.Scan(&g.Target, &g.KeyID, &g.Signatures); err != nil {
				return err
			}
			out = append(out, g)
			return nil
		}, `SELECT target, key_id, signatures FROM user_signatures g WHERE signer = ? AND target IN (?) AND signed_by = `+bySigner, string(signer), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// OldSignatures lists signatures that were not made by their signer's present user-signing key, at most limit. It looks at all
// signatures: use it in a View.
func (s CrossSigning) OldSignatures(limit int) ([]UserSignature, error) {
	var out []UserSignature
	err := s.tx.query(func(rows *sql.Rows) error {
		var g UserSignature
		if err := rows.Scan(&g.Signer, &g.Target); err != nil {
			return err
		}
		out = append(out, g)
		return nil
	}, `SELECT signer, target FROM user_signatures g WHERE signed_by <> `+bySigner+` LIMIT ?`, limit)
	return out, err
}

// DeleteOldSignatures removes those of some signatures that are old still.
func (s CrossSigning) DeleteOldSignatures(list []UserSignature) error {
	pairs := make([][]string, len(list))
	for i, g := range list {
		pairs[i] = []string{string(g.Signer), string(g.Target)}
	}
	_, err := s.tx.exec(`DELETE FROM user_signatures AS g WHERE (signer, target) IN (VALUES ?) AND signed_by <> `+bySigner, bun.In(pairs))
	return err
}
