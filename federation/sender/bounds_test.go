package sender_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/sender"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// waits is what waits of a sender, by destination; of nobody, it is what has no sender.
func waits(t *testing.T, db *store.DB, user id.UserID) (at map[id.ServerName][]string, size int) {
	t.Helper()
	at = map[id.ServerName][]string{}
	err := db.View(t.Context(), func(tx *store.Tx) error {
		units, err := tx.Outbox.OfSender(user)
		for _, u := range units {
			rows, _, err := tx.Outbox.Next(u.Destination, u.Position-1, 1, 1)
			if err != nil || len(rows) != 1 {
				return fmt.Errorf("%+v: %d rows: %w", u, len(rows), err)
			}
			at[u.Destination] = append(at[u.Destination], strings.Trim(string(rows[0].EDU), `" `))
			size += u.Size
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at, size
}

// TestWhoFillsTheOutboxLoses: of one user, for one server and in all only so much waits for servers that are gone. Nothing is
// lost of those who have less, nor events, nor of a user what is for servers for which little waits; the newest stays.
func TestWhoFillsTheOutboxLoses(t *testing.T) {
	const mallory, alice = id.UserID("@mallory:us.test"), id.UserID("@alice:us.test")
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		put := func(user id.UserID, servers []id.ServerName, names ...string) {
			t.Helper()
			err := db.Update(t.Context(), func(tx *store.Tx) error {
				for _, name := range names {
					tx.Outbox.AddEDU(servers, store.DataUnit{JSON: fmt.Appendf(nil, "%-1000q", name), Sender: user})
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		var running *sender.Sender
		begin := func(b sender.Bounds) {
			t.Helper()
			if running != nil {
				running.Close()
			}
			key, err := sign.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			log := slog.New(slog.DiscardHandler)
			running = &sender.Sender{Store: db, Client: federationtest.New(t, "us.test").Client(t, "us.test", key), Log: log, MinPause: time.Hour, Bounds: b}
			if err := running.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(running.Close)
		}
		gone := []id.ServerName{"gone0.test", "gone1.test"}
		put(alice, gone, "key", "key")
		put("", gone, "a list of devices")
		put(mallory, gone[1:], "last")
		many := sender.Share{Count: 1 << 20, Bytes: 1 << 30}

		begin(sender.Bounds{User: sender.Share{Count: 1000, Bytes: 20_000}, Server: many, All: many, Every: 50_000})
		put(mallory, gone[:1], numbered(0, 100)...)
		var at map[id.ServerName][]string
		waittest.Until(t, "of who fills, only so much waits", func() bool {
			var size int
			at, size = waits(t, db, mallory)
			return size <= 20_000
		})
		if len(at["gone1.test"]) != 1 || len(at["gone0.test"]) != 19 || at["gone0.test"][0] != "99" || at["gone0.test"][18] != "81" {
			t.Errorf("of who fills, what waits is %v", at)
		}
		if at, _ := waits(t, db, alice); len(at["gone0.test"]) != 2 || len(at["gone1.test"]) != 2 {
			t.Errorf("of who does not, what waits is %v", at)
		}

		// By number, for one destination: it is the same with many users.
		for i := range 10 {
			put(id.UserID(fmt.Sprintf("@mallory%d:us.test", i)), gone[:1], numbered(0, 10)...)
		}
		begin(sender.Bounds{User: many, Server: sender.Share{Count: 52, Bytes: 1 << 30}, All: many, Every: 1 << 30})
		waittest.Until(t, "for one server, only so much waits", func() bool { at, _ := waits(t, db, "@mallory9:us.test"); return len(at["gone0.test"]) == 4 })
		if at, _ := waits(t, db, alice); len(at["gone0.test"]) != 2 || len(at["gone1.test"]) != 2 {
			t.Errorf("of who sends little to a server for which much waits, what waits is %v", at)
		}

		// In all.
		put(mallory, gone[:1], numbered(100, 120)...)
		begin(sender.Bounds{User: many, Server: many, All: sender.Share{Count: 1 << 20, Bytes: 50_000}, Every: 1 << 30})
		waittest.Until(t, "in all, only so much waits", func() bool { _, size := waits(t, db, mallory); return size == 6000 })
		if at, _ := waits(t, db, "@mallory9:us.test"); len(at["gone0.test"]) != 4 {
			t.Errorf("of one of those who have less than the fullest, what waits is %v", at)
		}
		if at, _ := waits(t, db, alice); len(at["gone0.test"]) != 2 || len(at["gone1.test"]) != 2 {
			t.Errorf("of who has little of all, what waits is %v", at)
		}
		err := db.View(t.Context(), func(tx *store.Tx) error {
			for _, server := range gone {
				rows, _, err := tx.Outbox.Next(server, 0, 1000, 1<<20)
				lists := 0
				for _, r := range rows {
					if strings.HasPrefix(string(r.EDU), `"a list`) {
						lists++
					}
				}
				if err != nil || lists != 1 {
					t.Errorf("for %s, what is nobody's waits %d times, %v", server, lists, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
