package room_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// Of the room that BenchmarkStored fills: who joins, and how many encrypted messages come with each join.
const (
	sizeMembers  = 5000
	sizeMessages = 3
)

// BenchmarkStored fills a large room with joins and encrypted messages and reports the bytes on disk: of the whole
// database for each event, of the event's JSON alone, and of the states for each state and each event.
func BenchmarkStored(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		for b.Loop() {
			stored(b, filepath.Join(b.TempDir(), "size.db"), func(db *sql.DB, table string) (n int64, err error) {
				where := `name = '` + table + `' OR name IN (SELECT name FROM sqlite_master WHERE tbl_name = '` + table + `')`
				if table == "" {
					where = `TRUE`
				}
				return n, db.QueryRow(`SELECT sum(pgsize) FROM dbstat WHERE ` + where).Scan(&n)
			}, "sqlite")
		}
	})
	b.Run("postgres", func(b *testing.B) {
		for b.Loop() {
			stored(b, storetest.Postgres(b), func(db *sql.DB, table string) (n int64, err error) {
				if table != "" {
					return n, db.QueryRow(`SELECT pg_total_relation_size($1::regclass)`, table).Scan(&n)
				}
				return n, db.QueryRow(`SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`).Scan(&n)
			}, "pgx")
		}
	})
}

func stored(b *testing.B, address string, size func(*sql.DB, string) (int64, error), driver string) {
	b.Helper()
	db := storetest.Open(b, address)
	e := engine(b, db)
	roomID := create(b, e, room.Creation{Preset: "public_chat"})
	fill(b, e, roomID)
	events := timeline(b, db, roomID)
	var text int
	states := map[store.StateNID]bool{}
	for _, ev := range events {
		text += len(ev.JSON)
		states[ev.StateBefore] = true
	}
	raw, err := sql.Open(driver, address)
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	sizes := map[string]int64{}
	for _, table := range []string{"", "events", "state_snapshots"} {
		if sizes[table], err = size(raw, table); err != nil {
			b.Fatal(err)
		}
	}
	n := float64(len(events))
	b.ReportMetric(float64(sizes[""])/n, "B/event")
	b.ReportMetric(float64(text)/n, "JSON-B/event")
	b.ReportMetric(float64(sizes["events"])/n, "events-B/event")
	b.ReportMetric(float64(sizes["state_snapshots"])/n, "states-B/event")
	b.ReportMetric(float64(sizes["state_snapshots"])/float64(len(states)), "B/state")
	b.ReportMetric(float64(len(events)), "events")
	if size, most := float64(sizes[""])/n, 3*float64(text)/n; size > most {
		b.Errorf("an event takes %.0f bytes, more than %.0f", size, most)
	}
}

// fill has members join a room, each of whom then says something.
func fill(b *testing.B, e *room.Engine, roomID id.RoomID) {
	b.Helper()
	users := make(chan id.UserID)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for u := range users {
				profile := room.Profile{DisplayName: string(u[1:9]), AvatarURL: "mxc://one.test/abcdefghijklmnopqrstuvwx"}
				if err := e.Join(context.Background(), room.Change{Room: roomID, Sender: u, Target: u, Profile: profile}); err != nil {
					b.Error(err)
					continue
				}
				for range sizeMessages {
					if _, err := e.Send(context.Background(), room.Message{Room: roomID, Sender: u, Type: "m.room.encrypted", Content: encrypted()}); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	for i := range sizeMembers {
		users <- user(fmt.Sprintf("member-%04d", i))
	}
	close(users)
	wg.Wait()
}

// encrypted is a content as Megolm makes it of a sentence.
func encrypted() json.RawMessage {
	var secret [240]byte
	_, _ = rand.Read(secret[:])
	text := base64.RawStdEncoding.EncodeToString(secret[:])
	return json.RawMessage(fmt.Sprintf(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"%s","session_id":"%s","device_id":"ABCDEFGHIJ","sender_key":"%s"}`,
		text, text[:43], text[43:86]))
}
