package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

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
// itself, so that others' updates come in between.
func (s *Service) UploadSignatures(ctx context.Context, user id.UserID, signed Signatures) (SignatureFailures, error) {
	n := 0
	targets := map[id.UserID][]id.DeviceID{}
	for target, objects := range signed {
		if n += len(objects); target != user {
			targets[target] = []id.DeviceID{}
		}
	}
	if n > maxSignatures || len(signed) > maxSignatures {
		return nil, fmt.Errorf("upload signatures: %w: at most %d at a time", ErrTooLarge, maxSignatures)
	}
	u := signatureUpload{s: s, user: user, others: newPublished(), failures: SignatureFailures{}}
	var err error
	if len(targets) > 0 {
		if u.others, _, err = s.Query(ctx, user, targets, 0); err != nil {
			return nil, fmt.Errorf("upload signatures: %w", err)
		}
	}
	if u.who, err = s.audience(ctx, user); err != nil {
		return nil, fmt.Errorf("upload signatures: %w", err)
	}
	list, err := u.known(ctx, signed)
	if err != nil {
		return nil, fmt.Errorf("upload signatures: %w", err)
	}
	for step := range slices.Chunk(list, max(1, signatureStep/(1+len(u.who.servers)/50))) {
		if err := u.run(ctx, step); err != nil {
			return nil, fmt.Errorf("upload signatures: %w", err)
		}
	}
	return u.failures, nil
}

// signatureUpload is an UploadSignatures.
type signatureUpload struct {
	s        *Service
	user     id.UserID
	who      audience
	others   *Published
	failures SignatureFailures

	// Of the update that runs.
	tx  *store.Tx
	own map[string]store.SigningKey
}

// signedObject is one of Signatures.
type signedObject struct {
	target id.UserID
	name   string
	object []byte // canonical
	err    error  // why it is refused
}

// known are the objects that have the name of something published, which can be told before any update. The others are
// refused.
func (u *signatureUpload) known(ctx context.Context, signed Signatures) ([]signedObject, error) {
	own := map[string]bool{}
	err := u.s.Store.View(ctx, func(tx *store.Tx) error {
		signing, err := signingKeysOf(tx, u.user)
		if err != nil || len(signed[u.user]) == 0 {
			return err
		}
		if key, ok := signing[master]; ok {
			own[key.ID] = true
		}
		devices, err := tx.DeviceKeys.ByUsers([]id.UserID{u.user})
		for _, d := range devices {
			own[string(d.Device)] = true
		}
		return err
	})
	var out []signedObject
	for target, objects := range signed {
		for name, raw := range objects {
			object, refused := canonicalObject(raw, maxIdentity, "signed object")
			switch theirs := u.others.MasterKeys[target]; {
			case refused != nil:
			case target != u.user && (theirs == nil || publicKey(theirs) != name):
				refused = fmt.Errorf("master key: %w", ErrNotFound)
			case target == u.user && !own[name]:
				if refused = checkName(name, "a device ID"); refused == nil {
					refused = fmt.Errorf("device: %w", ErrNotFound)
				}
			}
			if refused != nil {
				u.failures.add(target, name, refused)
				continue
			}
			out = append(out, signedObject{target: target, name: name, object: object})
		}
	}
	return out, err
}

// run takes some objects in one update.
func (u *signatureUpload) run(ctx context.Context, step []signedObject) error {
	err := u.s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		u.tx = tx
		if u.own, err = signingKeysOf(tx, u.user); err != nil {
			return err
		}
		if u.who, err = u.s.still(tx, u.user, u.who); err != nil {
			return err
		}
		for i := range step {
			err := u.take(&step[i])
			if err != nil && !isRefusal(err) {
				return err
			}
			step[i].err = err
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, o := range step {
		if o.err != nil {
			u.failures.add(o.target, o.name, o.err)
		}
	}
	return nil
}

func (u *signatureUpload) take(o *signedObject) error {
	switch {
	case o.target != u.user:
		return u.signOther(o.target, o.name, o.object)
	case u.own[master].ID == o.name:
		return u.signMaster(o.object)
	}
	return u.signDevice(o.name, o.object)
}

// isRefusal tells what is wrong with a signature from what is wrong with the database.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{ErrInvalid, ErrNotFound, ErrTooLarge, ErrInvalidSignature}, func(refusal error) bool { return errors.Is(err, refusal) })
}

// signDevice adds the self-signing key's signature to one of the user's devices.
func (u *signatureUpload) signDevice(name string, object []byte) error {
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
	if !sameSigned(there.JSON, object) {
		return fmt.Errorf("%w: what was signed is not what is published", ErrInvalidSignature)
	}
	mine, err := u.byDevices(object)
	if err != nil || mine == nil {
		return err
	}
	merged, _ := mergeSignatures(there.JSON, canonicaljson.With(object, "signatures", canonicaljson.With(nil, string(u.user), mine)))
	switch {
	case len(merged) > maxIdentity:
		return fmt.Errorf("signatures: %w", ErrTooLarge)
	case bytes.Equal(merged, there.JSON):
		return nil
	}
	there.JSON = merged
	u.own[master] = there
	if err := u.tx.CrossSigning.Set(there); err != nil {
		return err
	}
	return u.s.signingKeysChanged(u.tx, u.user, u.who)
}

// byDevices are those signatures of an object that the user's devices made; nil if there are none. All of them must be valid.
func (u *signatureUpload) byDevices(object []byte) ([]byte, error) {
	all := member(canonicaljson.Get(object, "signatures"), string(u.user))
	var devices []id.DeviceID
	for key := range canonicaljson.Members(all) {
		text, _ := canonicaljson.String(quoted(key))
		devices = append(devices, id.DeviceID(id.KeyID(text).Name()))
	}
	known, err := u.tx.DeviceKeys.Named(u.user, devices)
	if err != nil {
		return nil, err
	}
	message := sign.Message(object)
	var others []string
	for key, value := range canonicaljson.Members(all) {
		text, _ := canonicaljson.String(quoted(key))
		public, _ := canonicaljson.String(member(canonicaljson.Get(known[id.DeviceID(id.KeyID(text).Name())], "keys"), text))
		decoded, err := decodeKey(public)
		if err != nil {
			others = append(others, string(key)) // not a device of this user, such as the master key itself
			continue
		}
		signature, _ := canonicaljson.String(value)
		if sign.Verify(decoded, message, signature) != nil {
			return nil, ErrInvalidSignature
		}
	}
	if len(others) == len(devices) {
		return nil, nil
	}
	return canonicaljson.Without(all, others...), nil
}

// signOther keeps the user-signing key's signature of another user's master key.
func (u *signatureUpload) signOther(target id.UserID, name string, object []byte) error {
	theirs := u.others.MasterKeys[target]
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
		Signer: u.user, Target: target, KeyID: name, SignedBy: usk.ID, Signatures: canonicaljson.With(nil, key, signature),
	})
	return nil
}
