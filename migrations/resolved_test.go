package migrations_test

import (
	"context"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/migrations"
)

// TestHeadsGetTheirPlaces has rooms from before the states at positions were written: one with events that are shown, were
// refused and changed the state without being shown; one with none of its own; one that was purged; one with none but from the past.
func TestHeadsGetTheirPlaces(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, ctx := open(t, address), context.Background()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(migrations.ApplyUpTo(ctx, db, 28))
		for _, statement := range []string{
			`INSERT INTO room_heads (room_nid, seq, state, extremities) VALUES (7, 1, 70, '[]'), (8, 1, 80, '[]'), (9, 1, 0, '[]'), (10, 1, 90, '[]')`,
			`INSERT INTO events (nid, event_id, room_nid, position, state_before, status, redacted_by, json) VALUES
				(1, '$1', 7, 11, 0, 0, 0, ''), (2, '$2', 7, -12, 0, 0, 0, ''), (3, '$3', 7, 13, 0, 4, 0, ''), (4, '$4', 7, NULL, 0, 2, 0, ''),
				(5, '$5', 8, NULL, 0, 0, 0, ''), (6, '$6', 9, 16, 0, 0, 0, ''), (7, '$7', 7, 17, 0, 1, 0, ''), (8, '$8', 10, -18, 0, 0, 0, '')`,
		} {
			_, err := db.ExecContext(ctx, statement)
			must(err)
		}
		must(migrations.Apply(ctx, db))
		var got []string
		must(db.NewRaw(`SELECT room_nid || ' ' || position || ' ' || state FROM resolved_states ORDER BY room_nid`).Scan(ctx, &got))
		if s := strings.Join(got, "; "); s != "7 13 70" {
			t.Errorf("the states at positions are %s", s)
		}
	})
}
