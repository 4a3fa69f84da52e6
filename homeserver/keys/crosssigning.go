package keys

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The usages of cross-signing keys.
const (
	master      = "master"
	selfSigning = "self_signing"
	userSigning = "user_signing"
)

// SigningKeys are cross-signing keys that a user publishes; absent ones are left as they are.
type SigningKeys struct {
	Master, SelfSigning, UserSigning json.RawMessage
}

// check parses the keys that are given; masters come first.
func (k SigningKeys) check(user id.UserID) ([]store.SigningKey, error) {
	var out []store.SigningKey
	for _, given := range []struct {
		usage string
		raw   json.RawMessage
	}{{master, k.Master}, {selfSigning, k.SelfSigning}, {userSigning, k.UserSigning}} {
		if len(given.raw) == 0 || string(given.raw) == "null" {
			continue
		}
		key, err := checkSigningKey(user, given.usage, given.raw)
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no key is given", ErrMissing)
	}
	return out, nil
}

// checkSigningKey checks that a cross-signing key is well-formed and that of a user.
func checkSigningKey(user id.UserID, usage string, raw json.RawMessage) (store.SigningKey, error) {
	canonical, err := canonicalObject(raw, maxIdentity, "cross-signing key")
	if err != nil {
		return store.SigningKey{}, err
	}
	var k struct {
		UserID     id.UserID                    `json:"user_id"`
		Usage      []string                     `json:"usage"`
		Keys       map[id.KeyID]string          `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(canonical, &k); err != nil {
		return store.SigningKey{}, fmt.Errorf("cross-signing key: %w: a member has the wrong type", ErrInvalid)
	}
	if k.UserID != user {
		return store.SigningKey{}, fmt.Errorf("cross-signing key: %w", ErrNotOwn)
	}
	if !slices.Contains(k.Usage, usage) || len(k.Keys) != 1 {
		return store.SigningKey{}, fmt.Errorf("%w: a %s key has that usage and one public key", ErrInvalid, usage)
	}
	for name, public := range k.Keys {
		if _, err := decodeKey(public); err != nil || name.Algorithm() != "ed25519" || name.Name() != public {
			return store.SigningKey{}, fmt.Errorf("%w: a cross-signing key is an ed25519 key under its own name", ErrInvalid)
		}
		return store.SigningKey{User: user, Usage: usage, ID: public, JSON: canonical}, nil
	}
	return store.SigningKey{}, ErrInvalid // there is one: not reached
}

func decodeKey(public string) (sign.PublicKey, error) {
	raw, err := sign.DecodeBase64(public)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: not an ed25519 key", ErrInvalid)
	}
	return raw, nil
}

// UploadSigningKeys publishes cross-signing keys (Client-Server API, POST /keys/device_signing/upload).
// Unless the user has just authenticated, only a first set of keys is taken and one that brings nothing
// new; else the answer is ErrNeedsAuth.
func (s *Service) UploadSigningKeys(ctx context.Context, user id.UserID, k SigningKeys, authenticated bool) error {
	keys, err := k.check(user)
	if err != nil {
		return fmt.Errorf("upload signing keys: %w", err)
	}
	who, err := s.audience(ctx, user)
	if err != nil {
		return fmt.Errorf("upload signing keys: %w", err)
	}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		old, err := signingKeysOf(tx, user)
		if err != nil {
			return err
		}
		fresh := slices.DeleteFunc(slices.Clone(keys), func(k store.SigningKey) bool {
			before, ok := old[k.Usage]
			return ok && sameSigned(before.JSON, k.JSON)
		})
		if len(fresh) == 0 {
			return nil
		}
		if err := checkMaster(old, keys); err != nil {
			return err
		}
		if _, ok := old[master]; ok && !authenticated {
			return ErrNeedsAuth
		}
		return s.setSigningKeys(tx, user, old, fresh, keys, who)
	})
	if err != nil {
		return fmt.Errorf("upload signing keys: %w", err)
	}
	return nil
}

func signingKeysOf(tx *store.Tx, user id.UserID) (map[string]store.SigningKey, error) {
	keys, err := tx.CrossSigning.ByUsers([]id.UserID{user})
	out := make(map[string]store.SigningKey, len(keys))
	for _, k := range keys {
		out[k.Usage] = k
	}
	return out, err
}

// checkMaster checks that the other keys are signed by the master key that is given, or else by the one
// that is there.
func checkMaster(old map[string]store.SigningKey, keys []store.SigningKey) error {
	m, ok := old[master]
	if keys[0].Usage == master {
		m, ok = keys[0], true
	}
	if !ok {
		return ErrNoMasterKey
	}
	for _, k := range keys {
		if k.Usage == master {
			continue
		}
		if err := verifyBy(k.JSON, m.User, m.ID); err != nil {
			return fmt.Errorf("%s key: %w", k.Usage, err)
		}
	}
	return nil
}

// verifyBy checks that an object is signed by a cross-signing key of a user.
func verifyBy(obj []byte, signer id.UserID, public string) error {
	key, err := decodeKey(public)
	if err != nil {
		return err
	}
	if err := sign.VerifyJSON(obj, string(signer), id.KeyID("ed25519:"+public), key); err != nil {
		return ErrInvalidSignature
	}
	return nil
}

// setSigningKeys writes those of the keys that are fresh. A new master key takes those away that the old one had signed.
// What a former user-signing key has signed is no longer shown; Prune deletes it.
func (s *Service) setSigningKeys(tx *store.Tx, user id.UserID, old map[string]store.SigningKey, fresh, keys []store.SigningKey, who audience) error {
	if _, ok := old[master]; ok && fresh[0].Usage == master {
		fresh = keys // those that are the same as before go with the old master key
		if err := tx.CrossSigning.DeleteUser(user); err != nil {
			return err
		}
	}
	for _, k := range fresh {
		if _, ok, err := tx.Devices.Get(user, id.DeviceID(k.ID)); err != nil || ok {
			return errors.Join(err, inUse(ok))
		}
		if err := tx.CrossSigning.Set(k); err != nil {
			return err
		}
	}
	return s.signingKeysChanged(tx, user, who)
}

func inUse(yes bool) error {
	if yes {
		return ErrKeyInUse
	}
	return nil
}

// signingKeysChanged logs that cross-signing keys of a local user changed, and tells other servers. If that is much, they
// are to fetch the list of the user's devices, which has the keys as well.
func (s *Service) signingKeysChanged(tx *store.Tx, user id.UserID, who audience) error {
	who, err := s.still(tx, user, who)
	if err != nil {
		return err
	}
	tx.DeviceLists.Log(user, true, who.local)
	if len(who.servers) == 0 {
		return nil
	}
	now, err := signingKeysOf(tx, user)
	if err != nil {
		return err
	}
	edu, err := encodeEDU("m.signing_key_update", struct {
		UserID         id.UserID       `json:"user_id"`
		MasterKey      json.RawMessage `json:"master_key,omitempty"`
		SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
	}{user, now[master].JSON, now[selfSigning].JSON})
	if err != nil {
		return err
	}
	return sendUpdates(tx, user, [][]byte{edu}, who.servers, func() (listUpdate, error) {
		_, number, err := tx.DeviceLists.NextStreamID(user)
		return listUpdate{UserID: user, DeviceID: id.DeviceID(now[master].ID), StreamID: number, PrevID: []int64{neverSent}}, err
	})
}
