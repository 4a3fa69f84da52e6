package e2ee

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// own is alice with an identity, and a new device of hers.
func own(t *testing.T) (w *world, alice, phone *person) {
	w = newWorld(t)
	alice = w.join("@alice:h", "A")
	alice.bootstrap()
	phone = w.join("@alice:h", "P")
	alice.sync()
	phone.sync()
	return w, alice, phone
}

// verifyOwnIdentity has the phone's user compare the identity's fingerprint.
func (p *person) verifyOwnIdentity() {
	p.w.t.Helper()
	identity, err := p.Identity(p.User())
	must(p.w.t, err)
	_, err = p.VerifyUser(p.User(), identity.Fingerprint)
	must(p.w.t, err)
}

func TestSecretsAreShared(t *testing.T) {
	w, alice, phone := own(t)
	phone.sync()
	if len(w.inbox[alice.ref()]) != 0 {
		t.Fatal("it asks before it has verified anything")
	}
	phone.verifyOwnIdentity()
	phone.share(Sharing{Members: []id.UserID{"@alice:h"}}) // after which alice could write to it
	alice.sync()
	phone.sync()
	if phone.HasCrossSigning() {
		t.Fatal("a device that was not verified got the keys")
	}
	signatures, err := alice.SignDevice("P", phone.Fingerprint())
	must(t, err)
	alice.publish(signatures)
	must(t, phone.update(func(tx *txn) error { // an hour later
		s, err := load[secretsRecord](tx, keySecrets)
		if err != nil {
			return err
		}
		s.At = 0
		return tx.save(keySecrets, s)
	}))
	phone.sync()
	alice.sync()
	phone.sync()
	want, _, _, err := alice.ExportCrossSigning()
	must(t, err)
	got, _, _, err := phone.ExportCrossSigning()
	must(t, err)
	if got != want {
		t.Error("the keys are others")
	}
	alice.sync()
	if n := len(alice.vault.Keys(prefixServe)); n != 0 {
		t.Errorf("%d requests still wait", n)
	}
}

// TestForeignSecrets has secrets come that were not asked for, from devices that are not verified, and of another
// identity.
func TestForeignSecrets(t *testing.T) {
	w, alice, phone := own(t)
	other := w.join("@alice:h", "X") // a device that alice never signed
	alice.sync()
	phone.sync()
	for _, p := range []*person{alice, other} {
		must(t, p.SetDeviceTrust("@alice:h", "P", Verified, phone.Fingerprint())) // so that they write to it
	}
	give := func(from *person, request, secret string) *Received {
		t.Helper()
		from.flush("@alice:h")
		must(t, from.update(func(tx *txn) error {
			u, err := loadUser(tx, "@alice:h")
			if err != nil {
				return err
			}
			return tx.tell(&u.Devices["P"].Device, "m.secret.send", secretSend{request, secret})
		}))
		from.deliver()
		return phone.sync()
	}
	made := identity.NewPrivate()
	if got := give(alice, "nothing", wire.Base64(made.Master)); len(got.Problems) != 1 {
		t.Errorf("what was not asked for: %v", got.Problems)
	}
	phone.verifyOwnIdentity()
	phone.sync()
	s, err := load[secretsRecord](phone.vault, keySecrets)
	must(t, err)
	if got := give(other, s.Asked[secretMaster], wire.Base64(made.Master)); len(got.Problems) != 1 {
		t.Errorf("of a device that is not verified: %v", got.Problems)
	}
	for name, seed := range seeds(made) {
		give(alice, s.Asked[name], wire.Base64(*seed))
	}
	if phone.HasCrossSigning() {
		t.Error("the keys of another identity were taken into use")
	}
	for _, bad := range []string{`5`, `{"name":"m.megolm_backup.v1","action":"request","request_id":"1","requesting_device_id":"P"}`} {
		w.inbox[alice.ref()] = append(w.inbox[alice.ref()], json.RawMessage(fmt.Sprintf(`{"type":"m.secret.request","sender":"@alice:h","content":%s}`, bad)))
	}
	w.inbox[alice.ref()] = append(w.inbox[alice.ref()], json.RawMessage(
		`{"type":"m.secret.request","sender":"@mallory:h","content":{"name":"m.cross_signing.master","action":"request","request_id":"1","requesting_device_id":"M"}}`))
	alice.sync()
	for ref := range w.inbox {
		if ref.User == id.UserID("@mallory:h") {
			t.Error("mallory was answered")
		}
	}
}
