package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

func TestReports(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		put := func(r store.Report) {
			t.Helper()
			if err := db.Update(ctx, func(tx *store.Tx) error { return tx.Reports.Put(r, 2) }); err != nil {
				t.Fatal(err)
			}
		}
		rooms := func() (out []id.RoomID) {
			t.Helper()
			err := db.View(ctx, func(tx *store.Tx) error {
				list, err := tx.Reports.List(10)
				for _, r := range list {
					out = append(out, r.Room)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		for i, room := range []id.RoomID{"!a:one", "!b:one", "!a:one", "!c:one"} {
			put(store.Report{Reporter: "@eve:one", Room: room, Reason: "spam", At: time.UnixMilli(int64(1000 + i))})
		}
		if got := rooms(); len(got) != 2 || got[0] != "!c:one" || got[1] != "!a:one" {
			t.Errorf("kept %v, want the newest two", got)
		}
		put(store.Report{Reporter: "@bob:one", Room: "!d:one", At: time.UnixMilli(1)})
		if got := rooms(); len(got) != 3 {
			t.Errorf("kept %v: one reporter's limit is not another's", got)
		}
		if err := db.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Reports.Prune(time.UnixMilli(1003), limit) }); err != nil {
			t.Fatal(err)
		}
		if got := rooms(); len(got) != 1 || got[0] != "!c:one" {
			t.Errorf("after pruning there is %v", got)
		}
	})
}
