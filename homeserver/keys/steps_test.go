package keys_test

import (
	"encoding/json"
	"errors"
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

// TestClaimsAreRememberedUpToALimit of each user, which a claim that comes over it restores.
func TestClaimsAreRememberedUpToALimit(t *testing.T) {
	each(t, func(f *fixture) {
		f.update(func(tx *store.Tx) error {
			var wants []store.KeyWant
			for i := range 201 {
				device, n := id.DeviceID(fmt.Sprint("D", i)), 50
				if i == 200 {
					device, n = "A", 51
				}
				var list []store.OneTimeKey
				for k := range n {
					want := store.KeyWant{User: alice, Device: device, Algorithm: fmt.Sprint("x", k)}
					list = append(list, store.OneTimeKey{Algorithm: want.Algorithm, ID: "k", JSON: []byte("{}")})
					wants = append(wants, want)
				}
				if err := tx.OneTimeKeys.Insert(alice, device, list); err != nil {
					return err
				}
			}
			_, err := tx.OneTimeKeys.Claim(wants, 1<<30)
			return err
		})
		f.uploadOneTime("k")
		if got := f.claim(); got != "k" {
			f.Fatalf("claimed %q", got)
		}
		f.view(func(tx *store.Tx) error {
			n, err := tx.Stored.Bytes(alice, store.StoredClaims)
			if n != 10_000 {
				f.Errorf("%d claims are remembered", n)
			}
			return err
		})
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

// TestSignaturesOfAnObjectAreBounded: an object with more of them is refused before any update.
func TestSignaturesOfAnObjectAreBounded(t *testing.T) {
	each(t, func(f *fixture) {
		i := newIdentity(f.T, alice)
		f.must(f.UploadSigningKeys(f.Context(), alice, i.published(), false))
		signedBy := func(signers, each int, object json.RawMessage) json.RawMessage {
			var o map[string]any
			f.must(json.Unmarshal(object, &o))
			all := map[string]map[string]string{}
			for s := range signers {
				of := map[string]string{}
				for k := range each {
					of[fmt.Sprint("k", k)] = "x"
				}
				all[fmt.Sprint("s", s)] = of
			}
			o["signatures"] = all
			return encode(o)
		}
		for _, c := range []struct{ signers, each, updates int }{{64, 1, 1}, {1, 64, 1}, {65, 0, 0}, {65, 1, 0}, {1, 65, 0}} {
			var want error
			if c.updates == 0 {
				want = keys.ErrTooLarge
			}
			made := f.updates(func() {
				_, err := f.Upload(f.Context(), alice, "A", keys.Upload{DeviceKeys: signedBy(c.signers, c.each, identity(alice, "A", "x"))})
				if !errors.Is(err, want) {
					f.Errorf("device keys: got %v, want %v", err, want)
				}
			})
			if made != int64(c.updates) {
				f.Errorf("%d updates were made for %v", made, c)
			}
			if want != nil {
				f.wants(f.UploadSigningKeys(f.Context(), alice, keys.SigningKeys{Master: signedBy(c.signers, c.each, i.master.published("master"))}, true), want)
				failures, err := f.UploadSignatures(f.Context(), alice, keys.Signatures{alice: {i.master.public: signedBy(c.signers, c.each, i.master.published("master"))}})
				f.must(err)
				f.wants(failures[alice][i.master.public], want)
			}
		}
	})
}

// TestMasterKeySignedByManyDevices takes the signatures of all of them, leaves others', and has none among them that is bad.
func TestMasterKeySignedByManyDevices(t *testing.T) {
	each(t, func(f *fixture) {
		i := newIdentity(f.T, alice)
		f.must(f.UploadSigningKeys(f.Context(), alice, i.published(), false))
		signed := i.master.sign(i.master.published("master"))
		var devices []signer
		for n := range 40 {
			name := fmt.Sprintf("D%02d", n)
			d := newSigner(f.T, alice, name)
			f.addDevice(alice, id.DeviceID(name))
			own := encode(map[string]any{"user_id": alice, "device_id": name, "algorithms": []string{}, "signatures": map[string]any{}, "keys": map[string]string{"ed25519:" + name: d.public}})
			_, err := f.Upload(f.Context(), alice, id.DeviceID(name), keys.Upload{DeviceKeys: own})
			f.must(err)
			signed, devices = d.sign(signed), append(devices, d)
		}
		upload := func(object json.RawMessage) error {
			failures, err := f.UploadSignatures(f.Context(), alice, keys.Signatures{alice: {i.master.public: object}})
			f.must(err)
			return failures[alice][i.master.public]
		}
		var wrong map[string]any
		f.must(json.Unmarshal(signed, &wrong))
		ofAlice := wrong["signatures"].(map[string]any)[string(alice)].(map[string]any)
		ofAlice["ed25519:D07"] = ofAlice["ed25519:D08"]
		f.wants(upload(encode(wrong)), keys.ErrInvalidSignature)
		f.must(upload(signed))
		var master struct {
			Signatures map[id.UserID]map[id.KeyID]string
		}
		f.must(json.Unmarshal(f.query(bob, alice).MasterKeys[alice], &master))
		for _, d := range devices {
			if master.Signatures[alice][d.key.ID] == "" {
				f.Errorf("the signature of %s is missing", d.key.ID)
			}
		}
		if len(master.Signatures[alice]) != len(devices) {
			f.Errorf("there are %d signatures", len(master.Signatures[alice]))
		}
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
