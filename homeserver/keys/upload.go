package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Upload is what a device publishes. One-time and fallback keys stand under "algorithm:name".
type Upload struct {
	DeviceKeys json.RawMessage
	OneTime    map[string]json.RawMessage
	Fallback   map[string]json.RawMessage
}

// checkedUpload is an Upload that has been parsed.
type checkedUpload struct {
	identity          []byte
	oneTime, fallback []store.OneTimeKey
}

// Upload publishes keys of a device, all of them or none, and returns how many one-time keys there are now
// by algorithm (Client-Server API, POST /keys/upload). What is there already is left as it is. Identity keys come with at
// most maxObjectSignatures signatures.
func (s *Service) Upload(ctx context.Context, user id.UserID, device id.DeviceID, u Upload) (map[string]int, error) {
	checked, err := u.check(user, device)
	if err != nil {
		return nil, fmt.Errorf("upload keys: %w", err)
	}
	var who audience
	if checked.identity != nil {
		if who, err = s.audience(ctx, user); err != nil {
			return nil, fmt.Errorf("upload keys: %w", err)
		}
	}
	var counts map[string]int
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.Devices.Get(user, device); err != nil || !ok {
			return orNotFound(err, "device")
		}
		if checked.identity != nil {
			if err := s.setIdentity(tx, user, device, checked.identity, who); err != nil {
				return err
			}
		}
		if err := addOneTimeKeys(tx, user, device, checked.oneTime); err != nil {
			return err
		}
		for _, k := range checked.fallback {
			if err := tx.OneTimeKeys.SetFallback(k); err != nil {
				return err
			}
		}
		if err := checkKeyQuota(tx, user, device, checked); err != nil {
			return err
		}
		now, err := tx.OneTimeKeys.Counts(user, device)
		counts = now.OneTime
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("upload keys: %w", err)
	}
	return counts, nil
}

// checkKeyQuota refuses an upload by which a user's devices have too much.
func checkKeyQuota(tx *store.Tx, user id.UserID, device id.DeviceID, u checkedUpload) error {
	if u.identity != nil {
		_, size, err := tx.DeviceKeys.Size(user)
		if err != nil {
			return err
		}
		if size > maxUserIdentity {
			return fmt.Errorf("%w: the identity keys of all devices of a user have at most %d bytes", ErrTooLarge, maxUserIdentity)
		}
	}
	if len(u.oneTime)+len(u.fallback) == 0 {
		return nil
	}
	size, fallback, err := tx.OneTimeKeys.Size(user, device)
	switch {
	case err != nil:
		return err
	case size > maxUserKeys:
		return fmt.Errorf("%w: the one-time and fallback keys of all devices of a user have at most %d bytes", ErrTooLarge, maxUserKeys)
	case fallback > maxFallbackKeys:
		return fmt.Errorf("%w: a device has fallback keys of at most %d algorithms", ErrTooLarge, maxFallbackKeys)
	}
	return nil
}

func orNotFound(err error, what string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", what, ErrNotFound)
}

func (u Upload) check(user id.UserID, device id.DeviceID) (c checkedUpload, err error) {
	if len(u.DeviceKeys) > 0 && string(u.DeviceKeys) != "null" {
		if c.identity, err = checkIdentity(u.DeviceKeys, user, device); err != nil {
			return c, err
		}
	}
	if c.oneTime, err = checkOneTime(user, device, u.OneTime, maxOneTimeKeys); err != nil {
		return c, err
	}
	if c.fallback, err = checkOneTime(user, device, u.Fallback, maxFallbackKeys); err != nil {
		return c, err
	}
	for i, k := range c.fallback {
		if i > 0 && k.Algorithm == c.fallback[i-1].Algorithm {
			return c, fmt.Errorf("%w: more than one fallback key of an algorithm", ErrInvalid)
		}
	}
	return c, nil
}

// checkIdentity checks that identity keys are complete and those of a device, and returns them in
// canonical form. Their signatures are for clients to judge.
func checkIdentity(raw json.RawMessage, user id.UserID, device id.DeviceID) ([]byte, error) {
	canonical, err := canonicalObject(raw, maxIdentity, "device keys")
	if err != nil {
		return nil, err
	}
	var k struct {
		UserID     *id.UserID                   `json:"user_id"`
		DeviceID   *id.DeviceID                 `json:"device_id"`
		Algorithms []string                     `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(canonical, &k); err != nil {
		return nil, fmt.Errorf("device keys: %w: a member has the wrong type", ErrInvalid)
	}
	switch {
	case k.UserID == nil || k.DeviceID == nil || k.Algorithms == nil || k.Keys == nil || k.Signatures == nil:
		return nil, fmt.Errorf("device keys: %w: user_id, device_id, algorithms, keys and signatures are needed", ErrMissing)
	case *k.UserID != user || *k.DeviceID != device:
		return nil, fmt.Errorf("device keys: %w", ErrNotOwn)
	}
	return canonical, nil
}

// checkOneTime checks one-time or fallback keys and returns them in order of their names.
func checkOneTime(user id.UserID, device id.DeviceID, named map[string]json.RawMessage, limit int) ([]store.OneTimeKey, error) {
	if len(named) > limit {
		return nil, fmt.Errorf("%w: at most %d keys", ErrTooLarge, limit)
	}
	out := make([]store.OneTimeKey, 0, len(named))
	for _, name := range slices.Sorted(maps.Keys(named)) {
		algorithm, short, _ := strings.Cut(name, ":")
		if err := checkName(algorithm, "an algorithm"); err != nil {
			return nil, err
		}
		if err := checkName(short, "the name of a key"); err != nil {
			return nil, err
		}
		raw := named[name]
		if len(raw) > maxOneTimeKey {
			return nil, fmt.Errorf("one-time key: %w: at most %d bytes", ErrTooLarge, maxOneTimeKey)
		}
		canonical, err := canonicaljson.Canonicalize(raw)
		if err != nil || canonical[0] != '{' && canonical[0] != '"' {
			return nil, fmt.Errorf("%w: a one-time key is a string or an object of canonical JSON", ErrInvalid)
		}
		out = append(out, store.OneTimeKey{User: user, Device: device, Algorithm: algorithm, ID: short, JSON: canonical})
	}
	return out, nil
}

// setIdentity writes a device's identity keys if they are new, and tells who has to know. A device that has proved its keys
// by signing them keeps them: whoever verified it verified these.
func (s *Service) setIdentity(tx *store.Tx, user id.UserID, device id.DeviceID, keys []byte, who audience) error {
	old, err := tx.DeviceKeys.Get(user, device)
	if err != nil {
		return err
	}
	// Signatures that were added since, such as by the self-signing key, outlive a repeated upload.
	if merged, ok := mergeSignatures(old, keys); ok && len(merged) <= maxIdentity {
		keys = merged
	}
	if bytes.Equal(old, keys) {
		return nil
	}
	if old != nil && signsItself(old, user, device) && !keepsKeys(old, keys) {
		return ErrIdentityFixed
	}
	if err := tx.DeviceKeys.Set(store.IdentityKeys{User: user, Device: device, JSON: keys}); err != nil {
		return err
	}
	return s.listChanged(tx, user, who, device)
}

// signsItself says whether identity keys in canonical form are signed by the device's own signing key.
func signsItself(keys []byte, user id.UserID, device id.DeviceID) bool {
	keyID := id.KeyID("ed25519:" + string(device))
	for name, value := range canonicaljson.Members(canonicaljson.Get(keys, "keys")) {
		if plain, _ := canonicaljson.String(quoted(name)); plain != string(keyID) {
			continue
		}
		encoded, _ := canonicaljson.String(value)
		public, err := sign.DecodeBase64(encoded)
		return err == nil && len(public) == ed25519.PublicKeySize && sign.VerifyJSON(keys, string(user), keyID, public) == nil
	}
	return false
}

// keepsKeys says whether all keys of a device are still there in newer identity keys, both in canonical form.
func keepsKeys(old, newer []byte) bool {
	now := map[string][]byte{}
	for name, value := range canonicaljson.Members(canonicaljson.Get(newer, "keys")) {
		now[string(name)] = value
	}
	for name, value := range canonicaljson.Members(canonicaljson.Get(old, "keys")) {
		if !bytes.Equal(now[string(name)], value) {
			return false
		}
	}
	return true
}

// mergeSignatures is the signed object with the signatures of both; false if the objects differ in more
// than their signatures.
func mergeSignatures(old, signed []byte) ([]byte, bool) {
	if old == nil || !sameSigned(old, signed) {
		return nil, false
	}
	before, now := canonicaljson.Get(old, "signatures"), canonicaljson.Get(signed, "signatures")
	if before == nil && now == nil {
		return signed, true
	}
	newer := func(_, now []byte) []byte { return now }
	all := canonicaljson.Merge(before, now, func(before, now []byte) []byte { return canonicaljson.Merge(before, now, newer) })
	return canonicaljson.With(signed, "signatures", all), true
}

func quoted(key []byte) []byte { return append(append([]byte{'"'}, key...), '"') }

// sameSigned says whether two objects in canonical form are the same but for signatures and "unsigned".
func sameSigned(a, b []byte) bool {
	return bytes.Equal(canonicaljson.Without(a, "signatures", "unsigned"), canonicaljson.Without(b, "signatures", "unsigned"))
}

// addOneTimeKeys adds those keys that are not there yet. One that was given out is left away, and a different one of its
// name refused: two sessions must not begin with one key (Client-Server API, "One-time and fallback keys").
func addOneTimeKeys(tx *store.Tx, user id.UserID, device id.DeviceID, keys []store.OneTimeKey) error {
	if len(keys) == 0 {
		return nil
	}
	there, err := tx.OneTimeKeys.Find(user, device, keys)
	if err != nil {
		return err
	}
	known := make(map[[2]string][]byte, len(there))
	for _, k := range there {
		known[[2]string{k.Algorithm, k.ID}] = k.JSON
	}
	claimed, err := tx.OneTimeKeys.Claimed(user, device, keys)
	if err != nil {
		return err
	}
	var fresh []store.OneTimeKey
	for _, k := range keys {
		name := [2]string{k.Algorithm, k.ID}
		old, ok := known[name]
		same, gone := claimed[name]
		switch {
		case gone && !same:
			return fmt.Errorf("%w: %s:%s was claimed before", ErrKeyExists, k.Algorithm, k.ID)
		case gone:
		case !ok:
			fresh = append(fresh, k)
		case !bytes.Equal(old, k.JSON) && (old[0] != '{' || !sameSigned(old, k.JSON)):
			return fmt.Errorf("%w: %s:%s", ErrKeyExists, k.Algorithm, k.ID)
		}
	}
	counts, err := tx.OneTimeKeys.Counts(user, device)
	if err != nil {
		return err
	}
	total := len(fresh)
	for _, n := range counts.OneTime {
		total += n
	}
	if total > maxOneTimeKeys {
		return fmt.Errorf("%w: a device has at most %d one-time keys", ErrTooLarge, maxOneTimeKeys)
	}
	return tx.OneTimeKeys.Insert(user, device, fresh)
}
