package keys_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
)

// updates is how many updates something takes.
func (f *fixture) updates(do func()) int64 {
	before := f.Store.Updates()
	do()
	return f.Store.Updates() - before
}

// TestClaimsAreMadeInSteps: others' updates come in between, and none is made for what is not there.
func TestClaimsAreMadeInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		claim := func(wants keys.Wants, updates int64) keys.Claimed {
			f.Helper()
			var got keys.Claimed
			made := f.updates(func() {
				var err error
				got, err = f.ClaimLocal(f.Context(), wants)
				f.must(err)
			})
			if made != updates {
				f.Errorf("%d updates were made, want %d", made, updates)
			}
			return got
		}
		wants := keys.Wants{alice: {}}
		for i := range 3000 {
			wants[id.UserID(fmt.Sprintf("@u%d:here", i))] = map[id.DeviceID]string{"A": signedCurve}
			wants[alice][id.DeviceID(fmt.Sprint("NO", i))] = signedCurve
		}
		if got := claim(wants, 0); len(got) > 0 {
			f.Errorf("claimed %v", got)
		}
		f.update(func(tx *store.Tx) error {
			for i := range 250 {
				k := store.OneTimeKey{User: alice, Device: id.DeviceID(fmt.Sprint("D", i)), Algorithm: signedCurve, ID: "k", JSON: []byte(`{}`)}
				err := tx.OneTimeKeys.SetFallback(k)
				if err == nil && i < 120 {
					k.JSON = []byte(`{"one":"time"}`)
					err = tx.OneTimeKeys.Insert(k.User, k.Device, []store.OneTimeKey{k})
				}
				if err != nil {
					return err
				}
				wants[alice][k.Device] = signedCurve
			}
			return nil
		})
		for round, oneTime := range []int{120, 0} {
			got, n := claim(wants, int64(3)), 0
			for _, k := range got[alice] {
				if string(k[signedCurve+":k"]) == `{"one":"time"}` {
					n++
				}
			}
			if len(got[alice]) != 250 || n != oneTime {
				f.Errorf("round %d: claimed of %d devices, %d one-time keys", round, len(got[alice]), n)
			}
		}
	})
}

// TestSignaturesAreTakenInSteps: others' updates come in between, and none is made for what is not there.
func TestSignaturesAreTakenInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		i := newIdentity(f.T, alice)
		f.must(f.UploadSigningKeys(f.Context(), alice, i.published(), false))
		upload := func(signed keys.Signatures, refused int, updates int64) {
			f.Helper()
			var failures keys.SignatureFailures
			made := f.updates(func() {
				var err error
				failures, err = f.UploadSignatures(f.Context(), alice, signed)
				f.must(err)
			})
			n := 0
			for _, of := range failures {
				n += len(of)
			}
			if n != refused || made != updates {
				f.Errorf("%d were refused in %d updates, want %d in %d", n, made, refused, updates)
			}
		}
		gone := keys.Signatures{alice: {}}
		for n := range 200 {
			gone[alice][fmt.Sprint("NO", n)] = json.RawMessage(`{}`)
			gone[id.UserID(fmt.Sprintf("@u%d:here", n))] = map[string]json.RawMessage{"A": json.RawMessage(`{}`)}
		}
		upload(gone, 400, 0)
		there := keys.Signatures{alice: {}}
		for n := range 45 {
			device := id.DeviceID(fmt.Sprint("D", n))
			f.addDevice(alice, device)
			f.upload(alice, device, "x")
			there[alice][string(device)] = i.self.sign(identity(alice, device, "x"))
		}
		there[alice]["D0"] = i.user.sign(identity(alice, "D0", "x"))
		upload(there, 1, 3)
		for n := range 500 {
			there[alice][fmt.Sprint("D", n)] = json.RawMessage(`{}`)
		}
		there[bob] = map[string]json.RawMessage{"B": json.RawMessage(`{}`)}
		_, err := f.UploadSignatures(f.Context(), alice, there)
		f.wants(err, keys.ErrTooLarge)
	})
}

// TestMessagesForManyServers are written together, and only for so many.
func TestMessagesForManyServers(t *testing.T) {
	each(t, func(f *fixture) {
		to := keys.ToDevice{Sender: alice, Device: "A", Type: "t", TxnID: "1", Messages: keys.Messages{}}
		for i := range 1000 {
			to.Messages[id.UserID(fmt.Sprintf("@u:h%d", i))] = map[id.DeviceID]json.RawMessage{"*": json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
		}
		before := f.position()
		for range 2 {
			f.must(f.SendToDevice(f.Context(), to))
		}
		if n := f.position() - before; n != 1 {
			f.Errorf("there are %d entries in the log", n)
		}
		f.view(func(tx *store.Tx) error {
			for i := range 1000 {
				rows, _, err := tx.Outbox.Next(id.ServerName(fmt.Sprint("h", i)), 0, 10, 1<<20)
				if err != nil || len(rows) != 1 {
					f.Fatalf("for h%d wait %v, %v", i, rows, err)
				}
				var unit struct {
					Content struct{ Messages keys.Messages }
				}
				f.must(json.Unmarshal(rows[0].EDU, &unit))
				if got := string(unit.Content.Messages[id.UserID(fmt.Sprintf("@u:h%d", i))]["*"]); got != fmt.Sprintf(`{"n":%d}`, i) {
					f.Fatalf("for h%d waits %s", i, rows[0].EDU)
				}
			}
			return nil
		})
		to.TxnID, to.Messages["@u:another"] = "2", map[id.DeviceID]json.RawMessage{"*": json.RawMessage(`{}`)}
		f.wants(f.SendToDevice(f.Context(), to), keys.ErrTooLarge)
	})
}
