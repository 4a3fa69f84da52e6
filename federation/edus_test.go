package federation

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestOurFaultsAreNotTheirs: a message to a device that our database does not take comes again, but not for ever.
func TestOurFaultsAreNotTheirs(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		n := federationtest.New(t, "us.test", "them.test")
		us := newPeer(t, n, "us.test", storetest.Open(t, address))
		them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		err := us.store.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Devices.Insert(store.Device{User: alice, ID: "A"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		sent := 0
		send := func(message string) int {
			sent++
			body := `{"pdus":[],"edus":[{"edu_type":"m.direct_to_device","content":{"sender":"@bob:them.test","type":"t","message_id":"` + message +
				`","messages":{"@alice:us.test":{"A":{}}}}}]}`
			status, _ := them.request(us, "PUT", fmt.Sprint("/_matrix/federation/v1/send/", sent), body, nil)
			return status
		}
		show := storetest.Hide(t, address, "to_device")
		if status := send("a"); status < 500 {
			t.Errorf("while the database fails: %d", status)
		}
		for range maxFaults {
			send("b")
		}
		if status := send("b"); status != http.StatusOK {
			t.Errorf("after %d tries: %d", maxFaults, status)
		}
		show()
		if status := send("a"); status != http.StatusOK {
			t.Errorf("afterwards: %d", status)
		}
		err = us.store.View(t.Context(), func(tx *store.Tx) error {
			got, err := tx.ToDevice.Since(alice, "A", 0, 1<<40, 10)
			if err == nil && len(got) != 1 {
				err = fmt.Errorf("%d messages", len(got))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
