package store_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// relate has events related to in each way, each by so many.
func relate(t *testing.T, db *store.DB, room store.RoomNID, n int, parents ...id.EventID) {
	t.Helper()
	for _, parent := range parents {
		first := number(t, db)
		for range n {
			number(t, db)
		}
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			for i := range n {
				nid, many := store.EventNID(first+int64(i)), id.UserID(fmt.Sprintf("@%d:one.test", i))
				r := store.Relation{Event: nid, Position: stream.Position(nid), Parent: parent, RelType: "m.annotation", Type: "m.reaction", Sender: many, Key: "+"}
				switch i % 6 {
				case 1:
					r.RelType, r.Type, r.Key = "m.thread", "m.room.message", ""
				case 2:
					r.RelType, r.Type, r.Key, r.Sender = "m.replace", "m.room.message", "", "@author:one.test"
				case 3:
					r.RelType, r.Type, r.Key = "m.reference", "m.poll.response", ""
				case 4:
					r.Sender, r.Key = "@eager:one.test", fmt.Sprint(i)
				case 5:
					r.Type, r.RelType = "m.poll.response", "x.other"
				}
				ev := &store.Event{Event: &event.Event{ID: id.EventID(fmt.Sprintf("$%d", nid)), JSON: []byte("{}")}, NID: nid, Room: room}
				if err := errors.Join(tx.Events.InsertAside(ev), tx.Relations.Insert(room, r)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// statistics keeps the planner from knowing anything of relations, until the function returned is called.
func statistics(t *testing.T, address string) (analyze func()) {
	driver, dsn := "sqlite", "file:"+filepath.ToSlash(address)+"?_pragma=busy_timeout(60000)"
	if strings.HasPrefix(address, "postgres") {
		driver, dsn = "pgx", address
	}
	raw, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	run := func(statement string) {
		t.Helper()
		if _, err := raw.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if driver == "pgx" {
		for _, table := range []string{"relations", "relation_groups", "thread_senders"} {
			run(`ALTER TABLE ` + table + ` SET (autovacuum_enabled = off)`)
		}
	}
	return func() { run(`ANALYZE`) }
}

var readRows = regexp.MustCompile(`actual rows=(\d+) loops=(\d+)`)

// bounded says what is wrong with a plan that should read no more than some rows of relations, by one index.
func bounded(plan store.Plan, index string, most int) string {
	all := strings.Join(plan.Steps, "\n")
	if !strings.Contains(all, index) {
		return "not by " + index
	}
	for _, bad := range []string{"SCAN relation", "SCAN thread_senders", "TEMP B-TREE", "Seq Scan on relation", "Seq Scan on thread_senders", "Bitmap", "Rows Removed by Filter"} {
		if strings.Contains(all, bad) {
			return bad
		}
	}
	for _, m := range readRows.FindAllStringSubmatch(all, -1) {
		rows, _ := strconv.Atoi(m[1])
		loops, _ := strconv.Atoi(m[2])
		if rows*loops > most {
			return fmt.Sprintf("%d rows are read for %d", rows*loops, most)
		}
	}
	return ""
}

// relationRead is what reads relations, by which index, and how many rows at most.
type relationRead struct {
	index string
	most  int
	read  func(tx *store.Tx) error
}

// The room and the number of rows asked for of TestRelationPlans.
const plansRoom, plansLimit = 7, 5

// relationReads are all ways to read what relates to an event.
func relationReads(parent *id.EventID) map[string]relationRead {
	const room, limit = plansRoom, plansLimit
	const from, to = stream.Position(-1e9), stream.Position(1e9)
	children := func(relType, typ string, backwards bool) func(tx *store.Tx) error {
		return func(tx *store.Tx) error {
			got, err := tx.Relations.Children(room, *parent, relType, typ, from, to, limit, backwards)
			if err == nil && len(got) != limit {
				err = fmt.Errorf("%d children of type %q %q", len(got), relType, typ)
			}
			return err
		}
	}
	of := func(relType, typ string) func(tx *store.Tx) error {
		return func(tx *store.Tx) error {
			got, err := tx.Relations.ChildrenOf(room, []id.EventID{"$few", *parent, "$less"}, relType, typ, limit)
			if err == nil && len(got) != limit {
				err = fmt.Errorf("%d children of several, type %q %q", len(got), relType, typ)
			}
			return err
		}
	}
	same := func(key string, want bool) func(tx *store.Tx) error {
		return func(tx *store.Tx) error {
			r := store.Relation{Parent: *parent, RelType: "m.annotation", Type: "m.reaction", Sender: "@eager:one.test", Key: key}
			got, err := tx.Relations.Same(room, r)
			if err == nil && got != want {
				err = fmt.Errorf("the same as %q: %v", key, got)
			}
			return err
		}
	}
	newest := func(tx *store.Tx) error {
		var like []store.Relation
		for _, p := range []id.EventID{"$few", *parent, "$less"} {
			like = append(like, store.Relation{Parent: p, RelType: "m.replace", Type: "m.room.message", Sender: "@author:one.test"})
		}
		got, err := tx.Relations.Newest(room, like, 2)
		if err == nil && len(got) != 6 {
			err = fmt.Errorf("%d newest", len(got))
		}
		return err
	}
	groups := func(tx *store.Tx) error {
		got, err := tx.Relations.Groups(room, []id.EventID{*parent})
		if err == nil && len(got) != 3 {
			err = fmt.Errorf("groups %v", got)
		}
		return err
	}
	threads := func(tx *store.Tx) error {
		got, err := tx.Relations.Threads(room, to, 2)
		if err == nil && len(got) != 2 {
			err = fmt.Errorf("threads %v", got)
		}
		return err
	}
	answered := func(tx *store.Tx) error {
		got, err := tx.Relations.Answered(room, []id.EventID{*parent, "$few"}, []id.UserID{"@1:one.test", "@nobody:one.test"})
		if err == nil && len(got) != 2 {
			err = fmt.Errorf("answered %v", got)
		}
		return err
	}
	lastAnswers := func(tx *store.Tx) error {
		got, err := tx.Relations.LastAnswers(room, []id.EventID{*parent, "$few"}, 2)
		if err == nil && (len(got) != 4 || got[0].Parent != *parent) {
			err = fmt.Errorf("the last answers are %v", got)
		}
		return err
	}
	return map[string]relationRead{
		"same":             {"relations_sender", 1, same("4", true)},
		"not the same":     {"relations_sender", 1, same("none", false)},
		"newest":           {"relations_sender", 6, newest},
		"any":              {"relations_any", limit, children("", "", false)},
		"any, backwards":   {"relations_any", limit, children("", "", true)},
		"one way":          {"relations_way", limit, children("m.reference", "", false)},
		"one way, back":    {"relations_way", limit, children("m.thread", "", true)},
		"one type":         {"relations_type", limit, children("x.other", "m.poll.response", false)},
		"one type, back":   {"relations_type", limit, children("m.thread", "m.room.message", true)},
		"of many":          {"relations_any", limit, of("", "")},
		"one way of many":  {"relations_way", limit, of("m.annotation", "")},
		"one type of many": {"relations_type", limit, of("m.annotation", "m.reaction")},
		"groups":           {"relation_groups_", 3, groups},
		"threads":          {"relation_groups_threads", 2, threads},
		"answered":         {"thread_senders_", 4, answered},
		"last answers":     {"relations_way", 4, lastAnswers},
	}
}

// TestRelationPlans asks for little of what thousands relate to in each way, and looks how the database goes about it: one
// index serves, whatever the planner knows of the table, and no row is read in vain.
func TestRelationPlans(t *testing.T) {
	var parent id.EventID
	cases := relationReads(&parent)
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		analyze := statistics(t, address)
		relate(t, db, plansRoom, 12, "$few", "$less")
		for _, known := range []string{"nothing", "all", "the past"} {
			if known == "all" {
				var many []id.EventID
				for i := range 200 {
					many = append(many, id.EventID(fmt.Sprint("$each", i)))
				}
				relate(t, db, plansRoom, 12, many...)
				analyze()
				db = storetest.Open(t, address)
			} else {
				parent = id.EventID("$popular while known is " + known)
				relate(t, db, plansRoom, 5000, parent)
			}
			for name, c := range cases {
				err := db.View(t.Context(), func(tx *store.Tx) error {
					plans, err := tx.Explain(func() error { return c.read(tx) })
					for _, plan := range plans {
						if wrong := bounded(plan, c.index, c.most); wrong != "" {
							t.Errorf("%s, if %s is known: %s\n%s", name, known, wrong, strings.Join(plan.Steps, "\n"))
						}
					}
					return err
				})
				if err != nil {
					t.Errorf("%s, if %s is known: %v", name, known, err)
				}
			}
		}
	})
}

// TestThreadsAreFoundWithoutTheEvents looks for the threads of many events that relate to large ones in threads, and to
// those that relate to these: what is in between is not read, and it takes as many queries as for one.
func TestThreadsAreFoundWithoutTheEvents(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		const n = 40
		db := storetest.Open(t, address)
		s := newStates(t, db)
		var last []*store.Event
		want := map[store.EventNID]string{}
		add := func(parent id.EventID, relType string) (ev *store.Event) {
			nid := store.EventNID(number(t, db))
			v, _ := event.VersionOf(event.DefaultVersion)
			content, err := json.Marshal(map[string]any{"body": strings.Repeat("x", 9000), "m.relates_to": map[string]any{"rel_type": relType, "event_id": parent}})
			if err != nil {
				t.Fatal(err)
			}
			ev = &store.Event{Event: &event.Event{
				Version: v, ID: id.EventID(fmt.Sprintf("$%d", nid)), Type: "m.room.message", Content: content,
				JSON: fmt.Appendf(nil, `{"content":%s,"sender":"@a:one.test","type":"m.room.message"}`, content),
			}, NID: nid, Room: s.room}
			s.update(func(tx *store.Tx) error {
				tx.Events.Append(ev, stream.Change{}, func(p stream.Position) error {
					if relType == "" {
						return nil
					}
					return tx.Relations.Insert(s.room, store.Relation{Event: nid, Position: p, Parent: parent, RelType: relType, Type: "m.room.message", Sender: "@a:one.test"})
				})
				return nil
			})
			return ev
		}
		for i := range n {
			root := add("", "")
			answer := add(root.ID, "m.thread")
			edit := add(answer.ID, "m.replace")
			about := add(edit.ID, "m.annotation")
			beyond := add(about.ID, "m.annotation")
			of := []*store.Event{root, answer, edit, about, beyond}[i%5]
			if last = append(last, of); i%5 == 0 || i%5 == 4 {
				want[of.NID] = ephemeral.MainThread
			} else {
				want[of.NID] = string(root.ID)
			}
		}
		early := add(id.EventID(fmt.Sprintf("$%d", number(t, db)+2)), "m.annotation")
		if late := add(last[0].ID, "m.thread"); string(early.Content) == strings.ReplaceAll(string(early.Content), string(late.ID), "") {
			t.Fatalf("%s does not relate to %s", early.Content, late.ID)
		}
		last, want[early.NID] = append(last, early), ephemeral.MainThread              // it came first
		err := storetest.Open(t, address).View(t.Context(), func(tx *store.Tx) error { // with nothing in memory
			var got map[store.EventNID]string
			plans, err := tx.Explain(func() (err error) {
				got, err = ephemeral.ThreadsOf(tx, last)
				return err
			})
			if !maps.Equal(got, want) {
				t.Errorf("threads are %v, not %v", got, want)
			}
			if len(plans) > 2 {
				t.Errorf("%d queries", len(plans))
			}
			for _, p := range plans {
				if strings.Contains(p.Query, "json") {
					t.Errorf("events are read: %s", p.Query)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
