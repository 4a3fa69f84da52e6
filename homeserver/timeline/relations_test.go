package timeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

func TestRelations(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		root := w.say(roomID, "alice", "root")
		var answers []id.EventID
		for range 5 {
			answers = append(answers, w.relate(roomID, "bob", "m.thread", root))
		}
		reaction := w.relate(roomID, "alice", "m.annotation", answers[0])
		list := func(q timeline.Relations) ([]id.EventID, *timeline.Related) {
			w.Helper()
			q.Parent = root
			out, err := w.Relations(ctx, roomID, reader("alice"), q)
			w.must(err)
			var ids []id.EventID
			for _, raw := range out.Chunk {
				ids = append(ids, w.parse(raw).ID)
			}
			return ids, out
		}
		page, out := list(timeline.Relations{Limit: 3})
		w.equal("first page", fmt.Sprint(page), fmt.Sprint([]id.EventID{answers[4], answers[3], answers[2]}))
		page, out = list(timeline.Relations{Limit: 3, From: out.Next})
		w.equal("second page", fmt.Sprint(page), fmt.Sprint([]id.EventID{answers[1], answers[0]}))
		w.equal("no third page", out.Next, "")
		page, out = list(timeline.Relations{Limit: 3, Forwards: true})
		w.equal("forwards", fmt.Sprint(page), fmt.Sprint(answers[:3]))
		page, _ = list(timeline.Relations{Limit: 3, Forwards: true, From: out.Next})
		w.equal("forwards again", fmt.Sprint(page), fmt.Sprint(answers[3:]))
		page, _ = list(timeline.Relations{Limit: 2, Recurse: true})
		w.equal("recursive", fmt.Sprint(page), fmt.Sprint([]id.EventID{reaction, answers[4]}))
		page, _ = list(timeline.Relations{Limit: 9, RelType: "m.thread", Type: "m.room.encrypted"})
		w.equal("of another type", fmt.Sprint(page), "[]")
		_, err := w.Relations(ctx, roomID, reader("carol"), timeline.Relations{Parent: root, Limit: 1})
		if !errors.Is(err, timeline.ErrNotFound) {
			w.Errorf("an outsider: %v", err)
		}
	})
}

func TestAggregations(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		w.member(roomID, "carol", "carol", "join")
		root := w.say(roomID, "alice", "root")
		w.relate(roomID, "bob", "m.thread", root)
		last := w.relate(roomID, "bob", "m.thread", root)
		edit := w.relate(roomID, "alice", "m.replace", root)
		w.relate(roomID, "bob", "m.replace", root) // not his to edit
		editOfLast := w.relate(roomID, "bob", "m.replace", last)
		reference := w.relate(roomID, "bob", "m.reference", root)
		relations := func(who string) map[string]any {
			w.Helper()
			raw, err := w.Event(ctx, roomID, reader(who), root)
			w.must(err)
			m, _ := w.parse(raw).Unsigned["m.relations"].(map[string]any)
			return m
		}
		dig := func(m any, path ...string) any {
			for _, p := range path {
				at, _ := m.(map[string]any)
				m = at[p]
			}
			return m
		}
		got := relations("carol")
		for _, c := range []struct {
			path []string
			want any
		}{
			{[]string{"m.replace", "event_id"}, edit},
			{[]string{"m.thread", "count"}, 2},
			{[]string{"m.thread", "current_user_participated"}, false},
			{[]string{"m.thread", "latest_event", "event_id"}, last},
			{[]string{"m.thread", "latest_event", "unsigned", "m.relations", "m.replace", "event_id"}, editOfLast},
			{[]string{"m.reference", "chunk"}, []any{map[string]any{"event_id": string(reference)}}},
		} {
			w.equal(fmt.Sprint(c.path), fmt.Sprint(dig(got, c.path...)), fmt.Sprint(c.want))
		}
		for _, who := range []string{"alice", "bob"} {
			w.equal(who+" took part", fmt.Sprint(dig(relations(who), "m.thread", "current_user_participated")), "true")
		}
		_, err := w.rooms.Redact(ctx, roomID, user("alice"), last, content(map[string]any{}), nil)
		w.must(err)
		w.equal("after a redaction", fmt.Sprint(dig(relations("carol"), "m.thread", "count")), "1")
		w.ignore("carol", "bob")
		w.equal("of someone ignored", fmt.Sprint(dig(relations("carol"), "m.thread")), "<nil>")
	})
}

func (w *world) ignore(who, whom string) {
	w.Helper()
	w.must(w.Store.Update(context.Background(), func(tx *store.Tx) error {
		tx.AccountData.Set(user(who), "", "m.ignored_user_list", content(map[string]any{"ignored_users": map[string]any{string(user(whom)): map[string]any{}}}))
		return nil
	}))
}

func TestThreads(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		var roots []id.EventID
		for i := range 3 {
			roots = append(roots, w.say(roomID, "alice", fmt.Sprint("t", i)))
		}
		for _, r := range roots {
			w.relate(roomID, "alice", "m.thread", r)
		}
		w.relate(roomID, "bob", "m.thread", roots[0])
		list := func(who string, q timeline.ThreadQuery) (string, string) {
			w.Helper()
			out, err := w.Threads(ctx, roomID, reader(who), q)
			w.must(err)
			return w.bodies(out.Chunk), out.Next
		}
		got, next := list("bob", timeline.ThreadQuery{Limit: 2})
		w.equal("first page", got, "[t0 t2]")
		got, next = list("bob", timeline.ThreadQuery{Limit: 2, From: next})
		w.equal("second page", got+next, "[t1]")
		got, _ = list("bob", timeline.ThreadQuery{Limit: 1, Participated: true})
		w.equal("participated", got, "[t0]")
		got, next = list("alice", timeline.ThreadQuery{Limit: 3, Participated: true})
		w.equal("of the author", got+next, "[t0 t2 t1]")
	})
}

func TestSearch(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID, other := w.create("shared"), w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		for i := range 5 {
			w.say(roomID, "alice", fmt.Sprint("Message number ", i))
		}
		w.say(other, "alice", "message number 2")
		doomed := w.say(roomID, "alice", "doomed message")
		_, err := w.rooms.Redact(ctx, roomID, user("alice"), doomed, content(map[string]any{}), nil)
		w.must(err)
		w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.encrypted", Content: content(map[string]any{"body": "message"})})
		search := func(who string, q timeline.Search) *timeline.Found {
			w.Helper()
			if q.Filter == nil {
				q.Filter = &filter.RoomEvents{}
			}
			found, err := w.Search(ctx, reader(who), q)
			w.must(err)
			return found
		}
		found := search("bob", timeline.Search{Term: "MESSAGE 2"})
		if found.Count != 1 || w.parse(found.Results[0].Event).RoomID != roomID {
			w.Errorf("bob finds %d", found.Count)
		}
		found = search("alice", timeline.Search{Term: "message 2", GroupBy: []string{"room_id"}, IncludeState: true})
		if found.Count != 2 || len(found.Groups["room_id"]) != 2 || len(found.State[other]) == 0 {
			w.Errorf("alice finds %d in %v", found.Count, found.Groups)
		}
		two := 2
		q := timeline.Search{
			Term: "message", Recent: true, Context: &timeline.SearchContext{Before: 1, After: 1, Profiles: true},
			Filter: &filter.RoomEvents{Events: filter.Events{Limit: &two}, Rooms: []id.RoomID{roomID}},
		}
		for page, want := range []string{"[Message number 4 Message number 3]", "[Message number 2 Message number 1]", "[Message number 0]"} {
			found = search("bob", q)
			var got []string
			for _, r := range found.Results {
				got = append(got, fmt.Sprint(w.parse(r.Event).Content["body"]))
			}
			w.equal(fmt.Sprint("page ", page), fmt.Sprint(got), want)
			q.From = found.Next
		}
		w.equal("no more pages", found.Next, "")
		w.equal("context", w.bodies(found.Results[0].Context.Before)+w.bodies(found.Results[0].Context.After), "[join @bob:one.test][Message number 1]")
		if found = search("bob", timeline.Search{Term: "doomed"}); found.Count != 0 {
			w.Error("what was redacted is found")
		}
		if found = search("bob", timeline.Search{Term: "message", Keys: []string{"content.topic"}}); found.Count != 0 {
			w.Error("bodies are found among topics")
		}
		_, err = w.Search(ctx, reader("bob"), timeline.Search{Term: "x", From: "y", Filter: &filter.RoomEvents{}})
		if !errors.Is(err, timeline.ErrBadRequest) {
			w.Errorf("a bad token: %v", err)
		}
	})
}
