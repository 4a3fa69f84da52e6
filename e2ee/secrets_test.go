package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/e2ee/backup"
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

// TestBackupKeyIsShared has a device get the key of the backup from another one, when that knows it as verified.
func TestBackupKeyIsShared(t *testing.T) {
	_, alice, phone := own(t)
	key, err := backup.NewKey()
	must(t, err)
	data, err := alice.NewBackup(key)
	must(t, err)
	must(t, alice.UseBackup("1", data, key))
	later := func() { // than what it asked an hour ago
		t.Helper()
		must(t, phone.update(func(tx *txn) error {
			asked, err := load[backupAsk](tx, keyBackupAsk)
			if err != nil {
				return err
			}
			asked.At = 0
			return tx.save(keyBackupAsk, asked)
		}))
	}
	phone.sync()
	if asked, err := load[backupAsk](phone.vault, keyBackupAsk); err != nil || asked != nil {
		t.Errorf("it asks before it has verified anything: %v", err)
	}
	phone.verifyOwnIdentity()
	phone.share(Sharing{Members: []id.UserID{"@alice:h"}})
	alice.sync()
	phone.sync()
	if _, ok := phone.ReceivedBackupKey(); ok {
		t.Fatal("a device that was not verified got the key")
	}
	signatures, err := alice.SignDevice("P", phone.Fingerprint())
	must(t, err)
	alice.publish(signatures)
	later()
	phone.sync()
	alice.sync()
	phone.sync()
	got, ok := phone.ReceivedBackupKey()
	if !ok || got.Public().String() != key.Public().String() {
		t.Fatal("the key did not come")
	}
	other, err := backup.NewKey()
	must(t, err)
	replaced, err := alice.NewBackup(other)
	must(t, err)
	if err := phone.UseBackup("2", replaced, got); !errors.Is(err, ErrOtherBackup) {
		t.Errorf("the key of another backup: %v", err)
	}
	must(t, phone.ForgetBackupKey())
	if _, ok := phone.ReceivedBackupKey(); ok {
		t.Error("it is not forgotten")
	}
	for range maxBackupAsks + 1 {
		later()
		phone.sync()
	}
	asked, err := load[backupAsk](phone.vault, keyBackupAsk)
	must(t, err)
	if asked.Tries != maxBackupAsks {
		t.Errorf("it asked %d times", asked.Tries)
	}
	alice.sync()
	phone.sync()
	if got, ok = phone.ReceivedBackupKey(); !ok {
		t.Fatal("the key did not come again")
	}
	must(t, phone.UseBackup("1", data, got))
	if _, waits := phone.ReceivedBackupKey(); waits || phone.BackupVersion() != "1" {
		t.Error("the key is not in use")
	}
}
