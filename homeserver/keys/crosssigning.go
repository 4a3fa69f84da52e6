package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
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
func (s *Service) setSigningKeys(tx *store.Tx, user id.UserID, old map[string]store.SigningKey, fresh, keys []store.SigningKey, who audience) error {
	if _, ok := old[master]; ok && fresh[0].Usage == master {
		fresh = keys // those that are the same as before go with the old master key
		if err := tx.CrossSigning.DeleteUser(user); err != nil {
			return err
		}
		if err := tx.CrossSigning.DeleteSignatures(user); err != nil {
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
		if k.Usage == userSigning {
			if err := tx.CrossSigning.DeleteSignatures(user); err != nil {
				return err
			}
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

// signingKeysChanged logs that cross-signing keys of a local user changed, and tells other servers.
func (s *Service) signingKeysChanged(tx *store.Tx, user id.UserID, who audience) error {
	tx.DeviceLists.Log(user, true, who.local)
	if len(who.servers) == 0 {
		return nil
	}
	now, err := signingKeysOf(tx, user)
	if err != nil {
		return err
	}
	return sendEDU(tx, who.servers, "m.signing_key_update", struct {
		UserID         id.UserID       `json:"user_id"`
		MasterKey      json.RawMessage `json:"master_key,omitempty"`
		SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
	}{user, now[master].JSON, now[selfSigning].JSON})
}

// Signatures are signed objects by user and by device ID or master key.
type Signatures map[id.UserID]map[string]json.RawMessage

// SignatureFailures say which signatures were refused, and why.
type SignatureFailures map[id.UserID]map[string]error

func (f SignatureFailures) add(user id.UserID, key string, err error) {
	if f[user] == nil {
		f[user] = map[string]error{}
	}
	f[user][key] = err
}

// UploadSignatures publishes signatures that a user made of own devices, of the own master key and of
// other users' master keys (Client-Server API, POST /keys/signatures/upload). Each is taken or refused by
// itself.
func (s *Service) UploadSignatures(ctx context.Context, user id.UserID, signed Signatures) (SignatureFailures, error) {
	targets := map[id.UserID][]id.DeviceID{}
	for target := range signed {
		if target != user {
			targets[target] = []id.DeviceID{}
		}
	}
	others := newPublished()
	if len(targets) > 0 {
		var err error
		if others, _, err = s.Query(ctx, user, targets, 0); err != nil {
			return nil, fmt.Errorf("upload signatures: %w", err)
		}
	}
	who, err := s.audience(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("upload signatures: %w", err)
	}
	var failures SignatureFailures
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		u := signatureUpload{s: s, tx: tx, user: user, who: who, others: others, failures: SignatureFailures{}}
		failures = u.failures
		return u.run(signed)
	})
	if err != nil {
		return nil, fmt.Errorf("upload signatures: %w", err)
	}
	return failures, nil
}

// signatureUpload is an UploadSignatures within its update.
type signatureUpload struct {
	s        *Service
	tx       *store.Tx
	user     id.UserID
	who      audience
	own      map[string]store.SigningKey
	others   *Published
	failures SignatureFailures
}

func (u *signatureUpload) run(signed Signatures) (err error) {
	if u.own, err = signingKeysOf(u.tx, u.user); err != nil {
		return err
	}
	for target, objects := range signed {
		for name, raw := range objects {
			object, err := canonicalObject(raw, maxIdentity, "signed object")
			switch {
			case err != nil:
			case target != u.user:
				err = u.signOther(target, name, object)
			case u.own[master].ID == name:
				err = u.signMaster(object)
			default:
				err = u.signDevice(name, object)
			}
			if err != nil && !isRefusal(err) {
				return err
			}
			if err != nil {
				u.failures.add(target, name, err)
			}
		}
	}
	return nil
}

// isRefusal tells what is wrong with a signature from what is wrong with the database.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{ErrInvalid, ErrNotFound, ErrTooLarge, ErrInvalidSignature}, func(refusal error) bool { return errors.Is(err, refusal) })
}

// signDevice adds the self-signing key's signature to one of the user's devices.
func (u *signatureUpload) signDevice(name string, object []byte) error {
	if err := checkName(name, "a device ID"); err != nil {
		return err
	}
	device := id.DeviceID(name)
	keys, err := u.tx.DeviceKeys.Get(u.user, device)
	if err != nil || keys == nil {
		return orNotFound(err, "device")
	}
	ssk, ok := u.own[selfSigning]
	if !ok {
		return fmt.Errorf("self-signing key: %w", ErrNotFound)
	}
	if err := verifyBy(object, u.user, ssk.ID); err != nil {
		return err
	}
	merged, err := merge(keys, object, u.user, "ed25519:"+ssk.ID)
	if err != nil || bytes.Equal(merged, keys) {
		return err
	}
	if err := u.tx.DeviceKeys.Set(store.IdentityKeys{User: u.user, Device: device, JSON: merged}); err != nil {
		return err
	}
	return u.s.listChanged(u.tx, u.user, u.who, device)
}

// merge takes one signature over from a signed object, which must be the same as the one that is there.
func merge(there, signed []byte, signer id.UserID, key string) ([]byte, error) {
	if !sameSigned(there, signed) {
		return nil, fmt.Errorf("%w: what was signed is not what is published", ErrInvalidSignature)
	}
	merged, _ := mergeSignatures(there, onlySignature(signed, signer, key))
	if len(merged) > maxIdentity {
		return nil, fmt.Errorf("signatures: %w", ErrTooLarge)
	}
	return merged, nil
}

// onlySignature is a signed object with none but one signature.
func onlySignature(signed []byte, signer id.UserID, key string) []byte {
	signature := member(member(canonicaljson.Get(signed, "signatures"), string(signer)), key)
	return canonicaljson.With(signed, "signatures", canonicaljson.With(nil, string(signer), canonicaljson.With(nil, key, signature)))
}

// member is a member of an object in canonical form under a name in plain text.
func member(obj []byte, name string) []byte {
	quoted := canonicaljson.AppendString(nil, name)
	return canonicaljson.Get(obj, string(quoted[1:len(quoted)-1]))
}

// signMaster adds the signatures of the user's devices to the own master key.
func (u *signatureUpload) signMaster(object []byte) error {
	there := u.own[master]
	merged := there.JSON
	for key := range canonicaljson.Members(member(canonicaljson.Get(object, "signatures"), string(u.user))) {
		text, _ := canonicaljson.String(quoted(key))
		name := id.KeyID(text)
		keys, err := u.tx.DeviceKeys.Get(u.user, id.DeviceID(name.Name()))
		if err != nil {
			return err
		}
		public, _ := canonicaljson.String(member(canonicaljson.Get(keys, "keys"), text))
		decoded, err := decodeKey(public)
		if keys == nil || err != nil {
			continue // not a device of this user, such as the master key itself
		}
		if sign.VerifyJSON(object, string(u.user), name, decoded) != nil {
			return ErrInvalidSignature
		}
		if merged, err = merge(merged, object, u.user, text); err != nil {
			return err
		}
	}
	if !sameSigned(there.JSON, object) {
		return fmt.Errorf("%w: what was signed is not what is published", ErrInvalidSignature)
	}
	if bytes.Equal(merged, there.JSON) {
		return nil
	}
	there.JSON = merged
	u.own[master] = there
	if err := u.tx.CrossSigning.Set(there); err != nil {
		return err
	}
	return u.s.signingKeysChanged(u.tx, u.user, u.who)
}

// signOther keeps the user-signing key's signature of another user's master key.
func (u *signatureUpload) signOther(target id.UserID, name string, object []byte) error {
	theirs := u.others.MasterKeys[target]
	if theirs == nil || publicKey(theirs) != name {
		return fmt.Errorf("master key: %w", ErrNotFound)
	}
	usk, ok := u.own[userSigning]
	if !ok {
		return fmt.Errorf("user-signing key: %w", ErrNotFound)
	}
	if !sameSigned(theirs, object) {
		return fmt.Errorf("%w: what was signed is not what is published", ErrInvalidSignature)
	}
	if err := verifyBy(object, u.user, usk.ID); err != nil {
		return err
	}
	key := "ed25519:" + usk.ID
	signature := member(member(canonicaljson.Get(object, "signatures"), string(u.user)), key)
	u.tx.CrossSigning.SetSignature(store.UserSignature{
		Signer: u.user, Target: target, KeyID: name, Signatures: canonicaljson.With(nil, key, signature),
	})
	return nil
}
