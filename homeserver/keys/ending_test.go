package keys_test

import (
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// fill gives a device messages and keys.
func (f *fixture) fill(user id.UserID, device id.DeviceID, n int) {
	f.Helper()
	f.update(func(tx *store.Tx) error {
		var messages []store.ToDeviceMessage
		var list []store.OneTimeKey
		for i := range n {
			messages = append(messages, store.ToDeviceMessage{User: user, Device: device, Sender: bob, JSON: []byte(`{}`)})
			list = append(list, store.OneTimeKey{Algorithm: "x", ID: fmt.Sprint(i), JSON: []byte(`{}`)})
		}
		tx.ToDevice.Add(messages)
		return tx.OneTimeKeys.Insert(user, device, list)
	})
}

// left is what hangs on a device: messages and one-time keys.
func (f *fixture) left(user id.UserID, device id.DeviceID) (n int) {
	f.Helper()
	f.view(func(tx *store.Tx) error {
		waiting, err := tx.ToDevice.Inbox(user, device)
		if err != nil {
			return err
		}
		counts, err := tx.OneTimeKeys.Counts(user, device)
		n = len(waiting) + counts.OneTime["x"]
		return err
	})
	return n
}

// TestDevicesAreEmptiedInSteps if they are logged out; what hangs on others stays.
func TestDevicesAreEmptiedInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		f.addDevice(alice, "KEPT")
		f.update(func(tx *store.Tx) error {
			return tx.Tokens.Insert(store.Token{Access: make([]byte, 32), User: alice, Device: "KEPT"})
		})
		devices := []id.DeviceID{"A", "KEPT"}
		for i := range 10 {
			devices = append(devices, id.DeviceID(fmt.Sprint("D", i)))
			f.addDevice(alice, devices[len(devices)-1])
		}
		for _, d := range devices {
			f.fill(alice, d, 100)
		}
		made := f.updates(func() { f.must(f.EmptyDevices(f.Context(), alice, devices)) })
		if made != 5 { // 2200 rows, 500 at a time
			t.Errorf("%d updates were made", made)
		}
		for _, d := range devices {
			want := 0
			if d == "KEPT" {
				want = 200
			}
			if n := f.left(alice, d); n != want {
				t.Errorf("on %s hang %d", d, n)
			}
		}
	})
}

// TestOldSignaturesAreDeletedInSteps: a new user-signing key, or erasing the user, takes away what the former one had signed, and
// no update that others wait for deletes all of it.
func TestOldSignaturesAreDeletedInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		sign := func(by string) {
			f.update(func(tx *store.Tx) error {
				for i := range 1200 {
					tx.CrossSigning.SetSignature(store.UserSignature{Signer: alice, Target: id.UserID(fmt.Sprintf("@u%d:here", i)), KeyID: "k", SignedBy: by, Signatures: []byte(`{}`)})
				}
				return nil
			})
		}
		// shown are how many signatures are shown, and there how many there are that are old.
		check := func(what string, shown, there int) {
			f.Helper()
			f.view(func(tx *store.Tx) error {
				var targets []id.UserID
				for i := range 1200 {
					targets = append(targets, id.UserID(fmt.Sprintf("@u%d:here", i)))
				}
				list, err := tx.CrossSigning.Signatures(alice, targets)
				if err != nil {
					return err
				}
				old, err := tx.CrossSigning.OldSignatures(10_000)
				if len(list) != shown || len(old) != there {
					f.Errorf("after %s %d signatures are shown, and %d are old", what, len(list), len(old))
				}
				return err
			})
		}
		for round := range 2 {
			i := newIdentity(f.T, alice)
			f.must(f.UploadSigningKeys(f.Context(), alice, i.published(), true))
			check("new keys", 0, 1200*round)
			sign(i.user.public)
			check("signing", 1200, 0)
		}
		f.update(func(tx *store.Tx) error { return f.UserDeleted(tx, alice) })
		check("erasing", 0, 1200)
		if made := f.updates(func() { f.must(f.Prune(f.Context())) }); made != 3 {
			f.Errorf("they were deleted in %d updates", made)
		}
		check("pruning", 0, 0)
	})
}
