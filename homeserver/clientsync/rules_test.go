package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// Thirty rules that are costly to compare with a large message held a reader of the database, and whoever else was told of
// the message, for half a minute.
func TestHostileRulesHoldNobodyUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		w.join(r, "mallory")
		var hostile []pushrule.Rule
		for i := range 30 {
			hostile = append(hostile, highlightOf(fmt.Sprint(i), strings.Repeat("?", 4000)+"~"))
		}
		w.rules("mallory", hostile...)
		for range 5 {
			w.say(r, "alice", strings.Repeat("a", 60_000)+"~a") // the pattern nearly fits
		}
		took := func(name string) time.Duration {
			c := w.client(name, `{"presence":{"not_types":["*"]}}`)
			began := time.Now()
			if got := c.next().Rooms.Join[r].Unread; got != (counts{0, 5}) {
				t.Errorf("%s: unread are %+v", name, got)
			}
			return time.Since(began)
		}
		harmless := took("bob")
		if got := took("mallory"); got > 200*harmless {
			t.Errorf("a sync with hostile rules takes %s, without %s", got, harmless)
		}
	})
}
