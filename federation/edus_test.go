package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestOurFaultsAreNotTheirs: messages to a device that our database does not take come in once it does.
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
		show := storetest.Hide(t, address, "to_device")
		for i := range 3 {
			body := fmt.Sprintf(`{"pdus":[],"edus":[{"edu_type":"m.direct_to_device","content":{"sender":"@bob:them.test","type":"t","message_id":"m","messages":{"@alice:us.test":{"A":{"n":%d}}}}}]}`, i/2)
			if status, _ := them.request(us, "PUT", fmt.Sprint("/_matrix/federation/v1/send/", i), body, nil); status != http.StatusOK {
				t.Errorf("while the database fails: %d", status)
			}
		}
		w := us.store.Hub.Subscribe(alice)
		defer w.Close()
		show()
		for got := 0; got == 0; {
			err := us.store.View(t.Context(), func(tx *store.Tx) error {
				list, err := tx.ToDevice.Since(alice, "A", 0, 1<<40, 10)
				got = len(list)
				return err
			})
			if err != nil || got > 1 {
				t.Fatalf("%d messages, %v", got, err)
			}
			if got == 0 {
				<-w.C
			}
		}
	})
}

// TestReceiptsOutliveOurFaults: a receipt that a fault of ours keeps out comes again, whatever else is refused beside it, and
// a room whose access list can't be read counts as one that bars nobody.
func TestReceiptsOutliveOurFaults(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		n := federationtest.New(t, "us.test", "them.test")
		us := newPeer(t, n, "us.test", storetest.Open(t, address))
		them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		said := us.say(roomID, alice, "hello")
		content := fmt.Sprintf(`{%q:{"m.read":{"@bob:them.test":{"data":{"ts":1},"event_ids":[%q]},"@stranger:else.test":{"data":{"ts":1},"event_ids":[%q]}}}}`, roomID, said, said)

		restarted := newPeer(t, n, "us.test", us.store)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := restarted.api.receiveEDU(gone, "them.test", "m.receipt", []byte(content)); !ours(err) {
			t.Errorf("when the access list can't be read: %v", err)
		}

		w := us.store.Hub.Subscribe(alice)
		defer w.Close()
		show := storetest.Hide(t, address, "receipts")
		body := `{"pdus":[],"edus":[{"edu_type":"m.receipt","content":` + content + `}]}`
		if status, answer := them.request(restarted, "PUT", "/_matrix/federation/v1/send/1", body, nil); status != http.StatusOK {
			t.Errorf("while the database fails: %d %v", status, answer)
		}
		show()
		for read := false; !read; {
			err := us.store.View(t.Context(), func(tx *store.Tx) error {
				here, err := tx.Rooms.ByID(roomID)
				if err == nil {
					_, read, err = tx.Receipts.Get(here.NID, bob, ephemeral.Read, "")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if !read {
				<-w.C
			}
		}
	})
}

// TestReceiptsOfManyRooms: each room is looked up, so a unit has few.
func TestReceiptsOfManyRooms(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	rooms := map[string]any{}
	for i := range maxReceiptRooms + 1 {
		rooms[fmt.Sprintf("!%d:them.test", i)] = map[string]any{}
	}
	content, err := json.Marshal(rooms)
	if err != nil {
		t.Fatal(err)
	}
	if err := us.api.receiveEDU(t.Context(), "them.test", "m.receipt", content); !errors.Is(err, errBadEDU) {
		t.Errorf("receipts in %d rooms: %v", len(rooms), err)
	}
}
