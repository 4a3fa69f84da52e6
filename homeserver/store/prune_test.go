package store_test

import (
	"context"
	"errors"
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
				if err := insertOther(tx, i, at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var inbox stream.Position
		err = db.Update(ctx, func(tx *store.Tx) error {
			list := make([]store.ToDeviceMessage, old)
			for i := range list {
				list[i] = store.ToDeviceMessage{User: "@a:one.test", Device: "D", Sender: "@b:two.test", JSON: []byte("{}")}
			}
			tx.ToDevice.Add(list)
			return nil
		})
		if err == nil {
			err = db.View(ctx, func(tx *store.Tx) (err error) {
				inbox, err = tx.Position()
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, prune := range map[string]func(*store.Tx, int) (int64, error){
			"requests": func(tx *store.Tx, limit int) (int64, error) { return tx.Requests.Prune(time.UnixMilli(2000), limit) },
			"received": func(tx *store.Tx, limit int) (int64, error) { return tx.Received.Prune(time.UnixMilli(2000), limit) },
			"reports":  func(tx *store.Tx, limit int) (int64, error) { return tx.Reports.Prune(time.UnixMilli(2000), limit) },
			"servers": func(tx *store.Tx, limit int) (int64, error) {
				return tx.Destinations.Prune(time.UnixMilli(2000), limit)
			},
			"keys": func(tx *store.Tx, limit int) (int64, error) { return tx.ServerKeys.Prune(time.UnixMilli(2000), limit) },
			"lists": func(tx *store.Tx, limit int) (int64, error) {
				return tx.ServerKeys.PruneLists(time.UnixMilli(2000), limit)
			},
			"left": func(tx *store.Tx, limit int) (int64, error) {
				return tx.Memberships.ForgetLeft("@left:one.test", limit)
			},
			"messages": func(tx *store.Tx, limit int) (int64, error) {
				return tx.ToDevice.Delete("@a:one.test", "D", inbox, limit)
			},
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
			if forgotten, err := tx.Memberships.ForgottenBy("@left:one.test"); err != nil || len(forgotten) != old || forgotten[old] {
				t.Errorf("%d rooms are forgotten, %v: %v", len(forgotten), forgotten[old], err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// insertOther adds a room that was left, a report, a failing server, its key and its list, of a time.
func insertOther(tx *store.Tx, n int, at time.Time) error {
	server, left := id.ServerName(fmt.Sprint("s", n, ".test")), "leave"
	if at.UnixMilli() >= 2000 {
		left = "join"
	}
	return errors.Join(
		tx.Memberships.Set(store.Membership{Room: store.RoomNID(n), User: "@left:one.test", Membership: left, Position: stream.Position(n)}, "join", true),
		tx.Reports.Put(store.Report{Reporter: id.UserID("@r:" + server), Room: "!r:one.test", At: at}, 10),
		tx.Destinations.SetFailing(store.Destination{Server: server, FailingSince: 1, RetryAt: at.UnixMilli(), Failures: 1}),
		tx.ServerKeys.Put(store.ServerKey{Server: server, KeyID: "ed25519:a", Public: []byte("x"), ValidUntil: at.UnixMilli(), Fetched: 1}),
		tx.ServerKeys.PutList(store.ServerKeyList{Server: server, ValidUntil: 1, Fetched: at.UnixMilli(), JSON: []byte("{}")}),
	)
}

// TestExpiredPassesGoInSteps: who asks for one does not delete all that have expired.
func TestExpiredPassesGoInSteps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		insert := func(tx *store.Tx, n int, now int64) error {
			return tx.Passes.Insert(store.Pass{Hash: fmt.Append(nil, n), Purpose: "openid", User: "@a:one.test", ExpiresAt: 1000}, now)
		}
		left := func(now int64) (n int) {
			err := db.Update(context.Background(), func(tx *store.Tx) error {
				for i := range 100 {
					if _, ok, err := tx.Passes.Get(fmt.Append(nil, i), "openid", now); err != nil {
						return err
					} else if ok {
						n++
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			for i := range 100 {
				if err := insert(tx, i, 1000); err != nil {
					return err
				}
			}
			return insert(tx, 100, 1001)
		})
		if n := left(1000); err != nil || n != 80 {
			t.Errorf("%d are left after the first, %v", n, err)
		}
		err = db.Update(context.Background(), func(tx *store.Tx) error {
			for i := range 5 {
				if err := insert(tx, 101+i, 1001); err != nil {
					return err
				}
			}
			return nil
		})
		if n := left(1000); err != nil || n > 0 {
			t.Errorf("%d are left in the end, %v", n, err)
		}
	})
}

// TestClaimsOfAUserAreBounded: the newest are remembered, of all devices together, and those of a deleted device don't count.
func TestClaimsOfAUserAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const user, keep = id.UserID("@a:one.test"), 6
		claim := func(user id.UserID, device id.DeviceID, names ...string) {
			t.Helper()
			for _, name := range names {
				err := db.Update(context.Background(), func(tx *store.Tx) error {
					err := tx.OneTimeKeys.Insert(user, device, []store.OneTimeKey{{Algorithm: "x", ID: name, JSON: []byte("{}")}})
					if err != nil {
						return err
					}
					got, err := tx.OneTimeKeys.Claim([]store.KeyWant{{User: user, Device: device, Algorithm: "x"}}, keep)
					if err == nil && len(got) != 1 {
						t.Errorf("%d keys were claimed", len(got))
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		remembered := func(user id.UserID, device id.DeviceID, want string) {
			t.Helper()
			err := db.View(context.Background(), func(tx *store.Tx) error {
				var keys []store.OneTimeKey
				for c := 'a'; c <= 'z'; c++ {
					keys = append(keys, store.OneTimeKey{Algorithm: "x", ID: string(c), JSON: []byte("{}")})
				}
				got, err := tx.OneTimeKeys.Claimed(user, device, keys)
				names := ""
				for _, k := range keys {
					if _, ok := got[[2]string{"x", k.ID}]; ok {
						names += k.ID
					}
				}
				if names != want {
					t.Errorf("of %s %s are remembered %q, want %q", user, device, names, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		claim("@b:one.test", "A", "a")
		claim(user, "A", "a", "b", "c", "d")
		claim(user, "B", "e", "f", "g", "h")
		remembered(user, "A", "cd")
		remembered(user, "B", "efgh")
		remembered("@b:one.test", "A", "a")
		if err := db.Update(context.Background(), func(tx *store.Tx) error { return tx.OneTimeKeys.DeleteDevices(user, []id.DeviceID{"B"}) }); err != nil {
			t.Fatal(err)
		}
		claim(user, "A", "i", "j", "k", "l")
		remembered(user, "A", "cdijkl")
		claim(user, "A", "m")
		remembered(user, "A", "dijklm")
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
			if _, err := tx.ToDevice.Delete(over[0].User, over[0].Device, waiting[6].Position-1, 100); err != nil {
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
			err = db.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) {
				return tx.Destinations.Prune(time.UnixMilli(2000), limit)
			})
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
			if _, err := tx.ServerKeys.Prune(time.UnixMilli(2000), 100); err != nil {
				return err
			}
			_, err := tx.ServerKeys.PruneLists(time.UnixMilli(2000), 100)
			return err
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
