package timeline_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// TestThreadsWithoutThoseIgnored has the last answers of a thread, or all, be by users that a reader ignores, herself among
// them.
func TestThreadsWithoutThoseIgnored(t *testing.T) {
	each(t, func(w *world) {
		roomID := w.create("shared")
		for _, who := range []string{"bob", "carol", "dora"} {
			w.member(roomID, who, who, "join")
		}
		root, other := w.say(roomID, "alice", "root"), w.say(roomID, "alice", "other")
		answers := map[string]id.EventID{}
		for _, who := range []string{"bob", "carol", "bob", "dora", "carol", "bob", "bob"} {
			answers[who] = w.relate(roomID, who, "m.thread", root)
		}
		w.relate(roomID, "bob", "m.thread", other)
		thread := func(who string, ev id.EventID) string {
			m, _ := w.bundled(roomID, who, ev)["m.thread"].(map[string]any)
			last, _ := m["latest_event"].(map[string]any)
			return fmt.Sprint(m["count"], last["event_id"], m["current_user_participated"])
		}
		w.equal("to alice", thread("alice", root), fmt.Sprint(7, answers["bob"], true))
		w.ignore("dora", "bob", "dora", "nobody")
		w.equal("without bob", thread("dora", root), fmt.Sprint(3, answers["carol"], true))
		w.equal("with bob alone", thread("dora", other), fmt.Sprint(nil, nil, nil))
		w.ignore("carol", "bob", "dora")
		w.equal("with carol alone", thread("carol", root), fmt.Sprint(2, answers["carol"], true))
		w.equal("to bob", thread("bob", root), fmt.Sprint(7, answers["bob"], true))
	})
}

// bundled is what is bundled with an event for a reader.
func (w *world) bundled(roomID id.RoomID, who string, ev id.EventID) map[string]any {
	w.Helper()
	raw, err := w.Event(context.Background(), roomID, reader(who), ev)
	w.must(err)
	m, _ := w.parse(raw).Unsigned["m.relations"].(map[string]any)
	return m
}

// TestEditsThatCount tries each rule of "Validity of replacement events", and which of the valid ones is the most recent.
func TestEditsThatCount(t *testing.T) {
	each(t, func(w *world) {
		roomID := w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		root, secret := w.say(roomID, "alice", "root"), w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.encrypted", Content: content(map[string]any{})})
		replace := func(sender, typ string, to id.EventID, at int64, extra map[string]any) id.EventID {
			w.Helper()
			c := map[string]any{"body": "b", "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": to}}
			maps.Copy(c, extra)
			return w.send(room.Message{Room: roomID, Sender: user(sender), Type: typ, Content: content(c), Timestamp: at})
		}
		better := map[string]any{"m.new_content": map[string]any{"body": "better"}}
		const message = "m.room.message"
		shown := func(what string, ev, want id.EventID) {
			w.Helper()
			edit, _ := w.bundled(roomID, "bob", ev)["m.replace"].(map[string]any)
			got, _ := edit["event_id"].(string)
			w.equal(what, got, string(want))
		}
		replace("alice", message, root, 0, nil)
		shown("without m.new_content", root, "")
		replace("alice", message, root, 0, map[string]any{"m.new_content": "text"})
		shown("with an m.new_content that is no object", root, "")
		replace("bob", message, root, 0, better)
		shown("of another sender", root, "")
		replace("alice", "m.room.encrypted", root, 0, better)
		shown("of another type", root, "")
		valid := replace("alice", message, root, 2000, better)
		shown("a valid one", root, valid)
		replace("alice", message, root, 3000, nil)
		shown("a later one without m.new_content", root, valid)
		replace("alice", message, root, 1000, better)
		shown("one that came later but is older", root, valid)
		same := replace("alice", message, root, 2000, map[string]any{"m.new_content": map[string]any{"body": "at the same time"}})
		shown("two of one moment", root, max(valid, same))
		replace("alice", message, same, 4000, better)
		shown("an edit of an edit", same, "")
		shown("of an encrypted event", secret, replace("alice", "m.room.encrypted", secret, 0, nil))
		for range 40 {
			replace("bob", message, root, 9000, better)
		}
		shown("among many of others", root, max(valid, same))
	})
}

// TestRedactedRootsKeepThreads: a redaction takes an event's content and its edits, not what was answered to it.
func TestRedactedRootsKeepThreads(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		root := w.say(roomID, "alice", "root")
		last := w.relate(roomID, "alice", "m.thread", root)
		reference := w.relate(roomID, "alice", "m.reference", root)
		w.relate(roomID, "alice", "m.replace", root)
		_, err := w.rooms.Redact(ctx, roomID, user("alice"), root, content(map[string]any{}), nil)
		w.must(err)
		got := w.bundled(roomID, "alice", root)
		thread, _ := got["m.thread"].(map[string]any)
		newest, _ := thread["latest_event"].(map[string]any)
		w.equal("the thread", fmt.Sprint(thread["count"], newest["event_id"]), "1"+string(last))
		w.equal("the references", fmt.Sprint(got["m.reference"]), fmt.Sprintf("map[chunk:[map[event_id:%s]]]", reference))
		w.equal("the edit", fmt.Sprint(got["m.replace"]), "<nil>")
		threads, err := w.Threads(ctx, roomID, reader("alice"), timeline.ThreadQuery{Limit: 5})
		w.must(err)
		w.equal("the list of threads", fmt.Sprint(len(threads.Chunk)), "1")
	})
}

func (w *world) ignore(who string, whom ...string) {
	w.Helper()
	users := map[id.UserID]struct{}{}
	for _, name := range whom {
		users[user(name)] = struct{}{}
	}
	w.must(w.Store.Update(context.Background(), func(tx *store.Tx) error {
		tx.AccountData.Set(user(who), "", "m.ignored_user_list", content(map[string]any{"ignored_users": users}))
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
		full := search("bob", timeline.Search{Term: "MESSAGE 2", Filter: &filter.RoomEvents{Events: filter.Events{Limit: new(1)}}})
		after := search("bob", timeline.Search{Term: "MESSAGE 2", From: full.Next})
		if full.Next == "" || after.Count != 1 || len(after.Results) != 0 || after.Next != "" {
			w.Errorf("a full page leads to %q, with %d of %d, and on to %q", full.Next, len(after.Results), after.Count, after.Next)
		}
		w.equal("context", w.bodies(found.Results[0].Context.Before)+w.bodies(found.Results[0].Context.After), "[join @bob:one.test][Message number 1]")
		w.say(roomID, "alice", "at the cafe\u0301")
		if found = search("bob", timeline.Search{Term: "caf\u00e9"}); found.Count != 1 {
			w.Error("the same letter in another form is not found")
		}
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
