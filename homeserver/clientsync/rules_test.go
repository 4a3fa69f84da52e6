package clientsync_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// rules gives a user rules as they may be stored, whether or not they could be set today.
func (w *world) rules(name string, content ...pushrule.Rule) {
	w.t.Helper()
	set := pushrule.Default(user(name))
	set.Content = append(content, set.Content...)
	w.ruleset(name, set)
}

func (w *world) ruleset(name string, set pushrule.Ruleset) {
	w.t.Helper()
	raw, err := set.JSON()
	w.must(err)
	w.must(w.db.Update(context.Background(), func(tx *store.Tx) error {
		tx.AccountData.Set(user(name), "", pushrule.AccountDataType, raw)
		return nil
	}))
}

func highlightOf(ruleID, pattern string) pushrule.Rule {
	return pushrule.Rule{ID: ruleID, Enabled: true, Pattern: pattern, Actions: json.RawMessage(`["notify",{"set_tweak":"highlight"}]`)}
}

// Rules of a user's own are asked after everything was read, and their outcome stands where it belongs.
func TestOwnRulesCount(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		one, two := w.create("alice", room.Creation{}), w.create("alice", room.Creation{})
		w.join(one, "bob")
		w.join(two, "bob")
		w.rules("bob", highlightOf("tea", "t?a"))
		bob := w.client("bob", "")
		w.say(one, "alice", "tea, anyone?")
		w.say(one, "alice", "anyone?")
		w.say(two, "alice", "no, thanks")
		got := bob.next()
		if one, two := got.Rooms.Join[one].Unread, got.Rooms.Join[two].Unread; one != (counts{1, 2}) || two != (counts{0, 1}) {
			t.Errorf("unread are %+v and %+v", one, two)
		}
		w.say(two, "alice", "a cup of tea")
		if got := bob.next().Rooms.Join[two].Unread; got != (counts{1, 2}) {
			t.Errorf("then %+v", got)
		}
	})
}

// TestHostileRulesHoldNobodyUp: while somebody's own rules are asked, the reader of the database has been given back, and others
// sync. There is only one reader here.
func TestHostileRulesHoldNobodyUp(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, err := store.Open(t.Context(), store.Options{URL: address, Readers: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		w.join(r, "mallory")
		set := pushrule.Default(user("mallory"))
		set.Override = append(set.Override, pushrule.Rule{
			ID: "ask", Enabled: true, Conditions: json.RawMessage(`[{"kind":"sender_notification_permission","key":"room"}]`), Actions: json.RawMessage(`[]`),
		})
		w.ruleset("mallory", set)
		said := w.say(r, "alice", "hello")
		mallory, bob, asked := w.client("mallory", ""), w.client("bob", ""), 0
		w.must(db.View(t.Context(), func(tx *store.Tx) error {
			ev, err := tx.Events.Get(said)
			if err == nil {
				w.sync.WhenJudged(ev, func() {
					asked++
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					if err := db.View(ctx, func(*store.Tx) error { return nil }); err != nil {
						t.Errorf("the database cannot be read meanwhile: %v", err)
						return
					}
					if got := bob.next().Rooms.Join[r].Unread; got != (counts{0, 1}) {
						t.Errorf("bob's unread are %+v", got)
					}
				})
			}
			return err
		}))
		if got := mallory.next().Rooms.Join[r].Unread; got != (counts{0, 1}) || asked != 1 {
			t.Errorf("unread are %+v, the rule was asked %d times", got, asked)
		}
	})
}

// TestRulesOfAnAnswerHaveABudget: once the rules of a user's own have cost too much in one answer, only the predefined ones
// count in it.
func TestRulesOfAnAnswerHaveABudget(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "mallory")
		w.rules("mallory", highlightOf("tea", "t?a"), highlightOf("costly", strings.Repeat("?", 4000)+"~"))
		mallory := w.client("mallory", "")
		const n = 80
		for range n { // each takes all that one event may
			w.say(r, "alice", strings.Repeat("a", 20_000))
		}
		w.say(r, "alice", "tea")
		if got := mallory.next().Rooms.Join[r].Unread; got != (counts{0, n + 1}) {
			t.Errorf("unread are %+v", got)
		}
		w.say(r, "alice", "more tea")
		if got := mallory.next().Rooms.Join[r].Unread; got != (counts{1, n + 2}) {
			t.Errorf("in the next answer, unread are %+v", got)
		}
	})
}
