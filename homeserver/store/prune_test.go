package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestPruneInSteps deletes more old rows than one update may, and no young one.
func TestPruneInSteps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		const old = 1100
		err := db.Update(ctx, func(tx *store.Tx) error {
			for i := range old + 1 {
				at := time.UnixMilli(1000)
				if i == old {
					at = time.UnixMilli(2000)
				}
				key := store.RequestKey{User: "@a:one.test", Device: "D", Scope: "send", TxnID: fmt.Sprint(i)}
				if _, err := tx.Requests.Insert(key, fmt.Sprint("$", i), at); err != nil {
					return err
				}
				if err := tx.Received.Insert("two.test", fmt.Sprint(i), []byte("{}"), at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for name, prune := range map[string]func(*store.Tx, int) (int64, error){
			"requests": func(tx *store.Tx, limit int) (int64, error) { return tx.Requests.Prune(time.UnixMilli(2000), limit) },
			"received": func(tx *store.Tx, limit int) (int64, error) { return tx.Received.Prune(time.UnixMilli(2000), limit) },
		} {
			var steps, total int64
			err := db.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) {
				n, err := prune(tx, limit)
				if steps, total = steps+1, total+n; n > int64(limit) {
					t.Errorf("%s: %d rows in one update, more than %d", name, n, limit)
				}
				return n, err
			})
			if err != nil || total != old || steps < 2 {
				t.Errorf("%s: %d went in %d steps: %v", name, total, steps, err)
			}
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			key := store.RequestKey{User: "@a:one.test", Device: "D", Scope: "send", TxnID: fmt.Sprint(old)}
			if _, ok, err := tx.Requests.Answer(key); err != nil || !ok {
				t.Errorf("the young request is gone: %v", err)
			}
			if _, ok, err := tx.Received.Answer("two.test", fmt.Sprint(old)); err != nil || !ok {
				t.Errorf("the young transaction is gone: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestOverfullInboxes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		const full, keep = id.DeviceID("FULL"), 5
		err := db.Update(ctx, func(tx *store.Tx) error {
			var list []store.ToDeviceMessage
			for i := range 8 {
				list = append(list, store.ToDeviceMessage{User: "@a:one.test", Device: full, Sender: "@b:two.test", JSON: []byte(fmt.Sprint(i))})
				if i < keep {
					list = append(list, store.ToDeviceMessage{User: "@a:one.test", Device: "OTHER", JSON: []byte(fmt.Sprint(i))})
				}
			}
			tx.ToDevice.Add(list)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var over []store.ToDeviceMessage
		err = db.View(ctx, func(tx *store.Tx) error {
			over, err = tx.ToDevice.Overfull(keep, 1<<20)
			return err
		})
		if err != nil || len(over) != 1 || over[0].Device != full {
			t.Fatalf("overfull are %v, %v", over, err)
		}
		err = db.Update(ctx, func(tx *store.Tx) error {
			waiting, err := tx.ToDevice.Inbox(over[0].User, over[0].Device)
			if err != nil {
				return err
			}
			if len(waiting) < 7 || waiting[0].Position < waiting[6].Position || waiting[0].Sender != "@b:two.test" || waiting[0].Size != 1 {
				t.Errorf("waiting are %v", waiting)
			}
			var drop []stream.Position
			for _, w := range waiting[keep:] {
				drop = append(drop, w.Position)
			}
			if err := tx.ToDevice.Delete(over[0].User, over[0].Device, waiting[6].Position-1); err != nil {
				return err
			}
			return tx.ToDevice.DeleteSome(over[0].User, over[0].Device, drop)
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			left, err := tx.ToDevice.Since("@a:one.test", full, 0, 1000, 100)
			if err == nil && (len(left) != keep || string(left[0].JSON) != "3") {
				t.Errorf("left are %d, the first is %s", len(left), left[0].JSON)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestFailingServersAreForgotten keeps those that something waits for, and those that failed lately.
func TestFailingServersAreForgotten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			for server, retry := range map[id.ServerName]int64{"old.test": 1000, "young.test": 3000, "waited.test": 1000} {
				if err := tx.Destinations.SetFailing(store.Destination{Server: server, FailingSince: 1, RetryAt: retry, Failures: 1}); err != nil {
					return err
				}
			}
			tx.Outbox.AddEDU([]id.ServerName{"waited.test"}, store.DataUnit{JSON: []byte("{}")})
			return nil
		})
		if err == nil {
			err = db.Update(ctx, func(tx *store.Tx) error { return tx.Destinations.Prune(time.UnixMilli(2000)) })
		}
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			left, err := tx.Destinations.Failing()
			if err == nil && (len(left) != 2 || left[0].Server != "waited.test" || left[1].Server != "young.test") {
				t.Errorf("left are %v", left)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestServerKeysAreForgotten keeps those that were valid at the time or later, and lists that were fetched then.
func TestServerKeysAreForgotten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			for name, at := range map[id.ServerName]int64{"old.test": 1999, "new.test": 2000} {
				if err := tx.ServerKeys.Put(store.ServerKey{Server: name, KeyID: "ed25519:a", Public: []byte("x"), ValidUntil: at, Fetched: 1}); err != nil {
					return err
				}
				if err := tx.ServerKeys.PutList(store.ServerKeyList{Server: name, ValidUntil: 1, Fetched: at, JSON: []byte("{}")}); err != nil {
					return err
				}
			}
			return tx.ServerKeys.Prune(time.UnixMilli(2000))
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			keys, err := tx.ServerKeys.Of("old.test", "new.test")
			if err != nil {
				return err
			}
			lists, err := tx.ServerKeys.Lists("old.test", "new.test")
			if len(keys) != 1 || keys[0].Server != "new.test" || len(lists) != 1 || lists[0].Server != "new.test" {
				t.Errorf("left are %v and %v", keys, lists)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
