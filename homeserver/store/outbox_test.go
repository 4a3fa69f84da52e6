package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestOutboxForMany queues for more servers than one statement takes, of which one is queued for already.
func TestOutboxForMany(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		servers := make([]id.ServerName, 257+6)
		for i := range servers {
			servers[i] = id.ServerName(fmt.Sprintf("s%03d.test", i))
		}
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			tx.Log(stream.Change{Kind: stream.Outbound, Servers: servers}, func(p stream.Position) error {
				if err := tx.Outbox.AddEvent(servers[:1], p, 7); err != nil {
					return err
				}
				return tx.Outbox.AddEvent(servers, p, 7)
			})
			tx.Outbox.AddEDU(servers, store.DataUnit{JSON: []byte("{}")})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			waiting, err := tx.Outbox.Destinations()
			if len(waiting) != len(servers) {
				t.Errorf("something waits for %d servers", len(waiting))
			}
			for _, server := range []id.ServerName{servers[0], servers[255], servers[256], servers[262]} {
				rows, _, err := tx.Outbox.Next(server, 0, 10, 1<<20)
				if err != nil {
					return err
				}
				if len(rows) != 2 || rows[0].Event != 7 || rows[0].EDU != nil || rows[1].Event != 0 || string(rows[1].EDU) != "{}" {
					t.Errorf("for %s: %+v", server, rows)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestOutboxIsReadInPieces: of what waits for a server, as many bytes are read as go out at once.
func TestOutboxIsReadInPieces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		servers := []id.ServerName{"two.test"}
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for range 5 {
				tx.Outbox.AddEDU(servers, store.DataUnit{JSON: fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", 1000))})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			limit, size, rows int
			more              bool
		}{{10, 2500, 3, true}, {10, 1, 1, true}, {10, 1 << 20, 5, false}, {2, 1 << 20, 2, true}} {
			err := db.View(t.Context(), func(tx *store.Tx) error {
				rows, more, err := tx.Outbox.Next(servers[0], 0, c.limit, c.size)
				if len(rows) != c.rows || more != c.more {
					t.Errorf("%+v: %d rows, more is %v", c, len(rows), more)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
