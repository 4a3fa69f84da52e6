package keys_test

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// signer is a key that signs in tests: a cross-signing key, or a device's.
type signer struct {
	user   id.UserID
	public string
	key    sign.Key
}

func newSigner(t *testing.T, user id.UserID, name string) signer {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := signer{user: user, public: sign.Base64(public)}
	if name == "" {
		name = s.public
	}
	s.key = sign.Key{ID: id.KeyID("ed25519:" + name), Private: private}
	return s
}

func (s signer) sign(obj []byte) json.RawMessage {
	signed, err := sign.JSON(obj, string(s.user), s.key)
	if err != nil {
		panic(err)
	}
	return signed
}

func (s signer) published(usage string) json.RawMessage {
	return encode(map[string]any{"user_id": s.user, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + s.public: s.public}})
}

// identitySet is a user's cross-signing keys.
type identitySet struct{ master, self, user signer }

func newIdentity(t *testing.T, user id.UserID) identitySet {
	return identitySet{newSigner(t, user, ""), newSigner(t, user, ""), newSigner(t, user, "")}
}

func (i identitySet) published() keys.SigningKeys {
	return keys.SigningKeys{
		Master:      i.master.published("master"),
		SelfSigning: i.master.sign(i.self.published("self_signing")),
		UserSigning: i.master.sign(i.user.published("user_signing")),
	}
}

func (f *fixture) query(asking, user id.UserID) *keys.Published {
	f.Helper()
	found, _, err := f.Query(f.Context(), asking, map[id.UserID][]id.DeviceID{user: nil}, 0)
	f.must(err)
	return found
}

func TestFirstSigningKeysNeedNoAuthentication(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		one, two := newIdentity(f.T, alice), newIdentity(f.T, alice)
		onlyMaster := keys.SigningKeys{Master: one.master.published("master")}
		f.must(f.UploadSigningKeys(ctx, alice, onlyMaster, false))
		f.must(f.UploadSigningKeys(ctx, alice, onlyMaster, false)) // the same again
		all := one.published()
		f.wants(f.UploadSigningKeys(ctx, alice, keys.SigningKeys{SelfSigning: all.SelfSigning}, false), keys.ErrNeedsAuth)
		f.must(f.UploadSigningKeys(ctx, alice, all, true))
		f.must(f.UploadSigningKeys(ctx, alice, all, false))
		f.wants(f.UploadSigningKeys(ctx, alice, two.published(), false), keys.ErrNeedsAuth)

		found := f.query(alice, alice)
		if found.MasterKeys[alice] == nil || found.SelfSigningKeys[alice] == nil || found.UserSigningKeys[alice] == nil {
			f.Errorf("alice sees %s", encode(found))
		}
		found = f.query(bob, alice)
		if found.MasterKeys[alice] == nil || found.SelfSigningKeys[alice] == nil || found.UserSigningKeys[alice] != nil {
			f.Errorf("bob sees %s", encode(found))
		}
		f.must(f.UploadSigningKeys(ctx, alice, keys.SigningKeys{Master: two.master.published("master")}, true))
		found = f.query(alice, alice)
		if found.SelfSigningKeys[alice] != nil || found.UserSigningKeys[alice] != nil {
			f.Error("keys signed by the old master key are left")
		}
	})
}

func TestSigningKeyRefusals(t *testing.T) {
	each(t, func(f *fixture) {
		i := newIdentity(f.T, alice)
		all := i.published()
		misnamed := json.RawMessage(strings.Replace(string(all.Master), `"ed25519:`, `"ed25519:x`, 1))
		for what, c := range map[string]struct {
			in   keys.SigningKeys
			want error
		}{
			"nothing":               {keys.SigningKeys{}, keys.ErrMissing},
			"no master key":         {keys.SigningKeys{SelfSigning: all.SelfSigning}, keys.ErrNoMasterKey},
			"an unsigned key":       {keys.SigningKeys{Master: all.Master, SelfSigning: i.self.published("self_signing")}, keys.ErrInvalidSignature},
			"a key for another use": {keys.SigningKeys{Master: all.SelfSigning}, keys.ErrInvalid},
			"another name":          {keys.SigningKeys{Master: misnamed}, keys.ErrInvalid},
			"another user's":        {keys.SigningKeys{Master: newIdentity(f.T, bob).published().Master}, keys.ErrNotOwn},
		} {
			err := f.UploadSigningKeys(f.Context(), alice, c.in, true)
			f.wants(err, c.want)
			if f.Failed() {
				f.Fatal(what)
			}
		}
		f.addDevice(alice, id.DeviceID(i.master.public))
		f.wants(f.UploadSigningKeys(f.Context(), alice, keys.SigningKeys{Master: all.Master}, true), keys.ErrKeyInUse)
	})
}

func TestSignaturesOfOwnKeys(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		i := newIdentity(f.T, alice)
		f.must(f.UploadSigningKeys(ctx, alice, i.published(), false))
		device := newSigner(f.T, alice, "A")
		own := encode(map[string]any{
			"user_id": alice, "device_id": "A", "algorithms": []string{}, "signatures": map[string]any{},
			"keys": map[string]string{"ed25519:A": device.public},
		})
		own = device.sign(own)
		_, err := f.Upload(ctx, alice, "A", keys.Upload{DeviceKeys: own})
		f.must(err)
		f.sent()

		failures, err := f.UploadSignatures(ctx, alice, keys.Signatures{alice: {
			"A":             i.self.sign(own),
			i.master.public: device.sign(i.master.published("master")),
			"GONE":          i.self.sign(identity(alice, "GONE", "x")),
		}})
		f.must(err)
		if len(failures[alice]) != 1 || len(failures) != 1 {
			f.Errorf("failures are %v", failures)
		}
		f.wants(failures[alice]["GONE"], keys.ErrNotFound)
		found := f.query(bob, alice)
		if got := string(found.DeviceKeys[alice]["A"]); !strings.Contains(got, "ed25519:"+i.self.public) || !strings.Contains(got, `"ed25519:A":"`) {
			f.Errorf("the device is %s", got)
		}
		if got := string(found.MasterKeys[alice]); !strings.Contains(got, `"ed25519:A"`) {
			f.Errorf("the master key is %s", got)
		}
		var types []string
		for _, e := range f.sent() {
			types = append(types, e.Type)
		}
		if len(types) != 2 {
			f.Errorf("the other server was told %v", types)
		}

		_, err = f.Upload(ctx, alice, "A", keys.Upload{DeviceKeys: own})
		f.must(err)
		if got := string(f.query(bob, alice).DeviceKeys[alice]["A"]); !strings.Contains(got, "ed25519:"+i.self.public) {
			f.Error("a repeated upload has lost the signature")
		}
		failures, err = f.UploadSignatures(ctx, alice, keys.Signatures{alice: {"A": i.user.sign(own)}})
		f.must(err)
		f.wants(failures[alice]["A"], keys.ErrInvalidSignature)
		tampered := json.RawMessage(strings.Replace(string(own), `"algorithms":[]`, `"algorithms":["x"]`, 1))
		failures, err = f.UploadSignatures(ctx, alice, keys.Signatures{alice: {"A": i.self.sign(tampered)}})
		f.must(err)
		f.wants(failures[alice]["A"], keys.ErrInvalidSignature)
	})
}

func TestSignaturesOfOthersAreForTheSigner(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		a, b := newIdentity(f.T, alice), newIdentity(f.T, bob)
		f.must(f.UploadSigningKeys(ctx, alice, a.published(), false))
		f.must(f.UploadSigningKeys(ctx, bob, b.published(), false))
		before := f.position()
		signed := a.user.sign(b.master.published("master"))
		failures, err := f.UploadSignatures(ctx, alice, keys.Signatures{bob: {b.master.public: signed}})
		f.must(err)
		if len(failures) > 0 {
			f.Fatal(failures)
		}
		f.wantChanges("alice signed", alice, before, []id.UserID{bob}, nil)
		f.wantChanges("alice signed", bob, before, nil, nil)
		has := func(asking id.UserID) bool {
			return strings.Contains(string(f.query(asking, bob).MasterKeys[bob]), "ed25519:"+a.user.public)
		}
		if !has(alice) || has(bob) {
			f.Error("not just the signer sees the signature")
		}
		failures, err = f.UploadSignatures(ctx, alice, keys.Signatures{bob: {b.master.public: a.self.sign(b.master.published("master"))}})
		f.must(err)
		f.wants(failures[bob][b.master.public], keys.ErrInvalidSignature)

		again := newIdentity(f.T, bob)
		f.must(f.UploadSigningKeys(ctx, bob, again.published(), true))
		if has(alice) {
			f.Error("a signature of an old key is shown with the new one")
		}
		failures, err = f.UploadSignatures(ctx, alice, keys.Signatures{bob: {b.master.public: signed}})
		f.must(err)
		f.wants(failures[bob][b.master.public], keys.ErrNotFound)
	})
}

func TestRemoteSigningKeys(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		a, c := newIdentity(f.T, alice), newIdentity(f.T, carol)
		f.must(f.UploadSigningKeys(ctx, alice, a.published(), false))
		f.carolHas(1, "1")
		f.remote.list.MasterKey = c.published().Master
		failures, err := f.UploadSignatures(ctx, alice, keys.Signatures{carol: {c.master.public: a.user.sign(c.master.published("master"))}})
		f.must(err)
		if len(failures) > 0 || !strings.Contains(string(f.query(alice, carol).MasterKeys[carol]), a.user.public) {
			f.Errorf("failures are %v", failures)
		}
		before := f.position()
		again := newIdentity(f.T, carol).published()
		f.must(f.ReceiveSigningKeyUpdate(ctx, there, encode(map[string]any{"user_id": carol, "master_key": again.Master, "self_signing_key": again.SelfSigning})))
		f.wantChanges("carol has new keys", alice, before, []id.UserID{carol}, nil)
		found := f.query(alice, carol)
		if string(found.MasterKeys[carol]) == "" || strings.Contains(string(found.MasterKeys[carol]), c.master.public) || found.SelfSigningKeys[carol] == nil {
			f.Errorf("the master key is %s", found.MasterKeys[carol])
		}
	})
}
