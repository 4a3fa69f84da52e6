package migrations_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"

	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/migrations"
)

// open opens a database as it is.
func open(t *testing.T, address string) *bun.DB {
	t.Helper()
	var driver string
	var d schema.Dialect
	if strings.HasPrefix(address, "postgres") {
		driver, d = "pgx", pgdialect.New()
	} else {
		driver, d = "sqlite", sqlitedialect.New()
	}
	raw, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	db := bun.NewDB(raw, d)
	t.Cleanup(func() { db.Close() })
	return db
}

// TestRelationsGetTheirPlaces has relations from before they had a position: of events that are shown, that are not, that
// have no place, and that came from the past.
func TestRelationsGetTheirPlaces(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, ctx := open(t, address), context.Background()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(migrations.ApplyUpTo(ctx, db, 23))
		for _, statement := range []string{
			`INSERT INTO events (nid, event_id, room_nid, position, state_before, status, redacted_by, json) VALUES
				(1, '$1', 9, 11, 0, 0, 0, ''), (2, '$2', 9, -12, 0, 0, 0, ''), (3, '$3', 9, 13, 0, 4, 0, ''), (4, '$4', 9, NULL, 0, 0, 0, ''),
				(5, '$5', 9, 15, 0, 0, 0, '')`,
			`INSERT INTO relations (event_nid, room_nid, parent, rel_type, type, sender, key) VALUES
				(1, 9, '$p', 'm.annotation', 'm.reaction', '@a', '+'), (2, 9, '$p', 'm.thread', 'm.room.message', '@b', '+'),
				(3, 9, '$p', 'm.thread', 'm.room.message', '@b', ''), (4, 9, '$p', 'm.thread', 'm.room.message', '@a', ''),
				(5, 9, '$p', 'm.thread', 'm.room.message', '@b', '')`,
		} {
			_, err := db.ExecContext(ctx, statement)
			must(err)
		}
		must(migrations.Apply(ctx, db))
		var got []string
		must(db.NewRaw(`SELECT event_nid || ' ' || room_nid || ' ' || coalesce(position, 0) || ' ' || parent || ' ' || rel_type || ' ' || type || ' ' || sender || ' ' || key
			FROM relations ORDER BY event_nid`).Scan(ctx, &got))
		want := "1 9 11 $p m.annotation m.reaction @a +; 2 9 -12 $p m.thread m.room.message @b ; 3 9 0 $p m.thread m.room.message @b ; 4 9 0 $p m.thread m.room.message @a ; 5 9 15 $p m.thread m.room.message @b "
		if s := strings.Join(got, "; "); s != want {
			t.Errorf("relations are\n%s\nnot\n%s", s, want)
		}
		got = nil
		must(db.NewRaw(`SELECT room_nid || ' ' || parent || ' ' || rel_type || ' ' || count || ' ' || last FROM relation_groups
			UNION ALL SELECT room_nid || ' ' || root || ' ' || sender || ' ' || count FROM thread_senders`).Scan(ctx, &got))
		if want, s := "9 $p m.thread 2 15; 9 $p @b 2", strings.Join(got, "; "); s != want {
			t.Errorf("sums are\n%s\nnot\n%s", s, want)
		}
	})
}
