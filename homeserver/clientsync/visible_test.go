package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// TestShownAsAllowed: a sync shows the events that GET /event shows, and no others, with the same membership; what is unread, and
// /notifications, are of these alone: whoever comes and goes, however the visibility changes, whatever another server sends
// late.
func TestShownAsAllowed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other := w.forker()
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			watch(rt, w, other, fmt.Sprint(round))
		})
	})
}

const wholeTimeline = `{"room":{"timeline":{"limit":1000}}}`

// watcher is a reader of a room who is shown all of it.
type watcher struct {
	*client
	name string
	room id.RoomID
}

// watch is one story of a room with a reader who comes and goes.
func watch(rt *rapid.T, w *world, other *forker, suffix string) {
	alice, carol, reader := "alice"+suffix, "carol"+suffix, "reader"+suffix
	r := w.create(alice, room.Creation{})
	eve, frank := id.UserID("@eve:"+otherServer), id.UserID("@frank:"+otherServer)
	w.state(r, alice, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:90}}`, eve))
	c := &watcher{w.client(reader, wholeTimeline), reader, r}
	c.r.UseStateAfter = true
	look := func() {
		if problem := c.look(); problem != "" {
			rt.Fatal(problem)
		}
	}
	member := func(sender, membership string) {
		_ = w.rooms.SetMembership(context.Background(), room.Change{Room: r, Sender: user(sender), Target: user(reader), Membership: membership})
	}
	n := 0
	something := func() event.Proto {
		n++
		if none := ""; n%4 == 0 {
			return event.Proto{Type: event.TypeHistoryVisibility, StateKey: &none, Sender: eve, Content: visibilityOf(rt, n)}
		}
		return foreign(rt, eve, frank, n, func(_, all int) string { return fmt.Sprintf(`{"users":{%q:90,%q:%d}}`, eve, frank, all) }, user(carol), user(reader))
	}
	actions := []func(){
		look, look,
		func() { w.say(r, alice, "hi") },
		func() { n++; w.state(r, alice, event.TypeHistoryVisibility, "", string(visibilityOf(rt, n))) },
		func() { member(reader, rapid.SampledFrom([]string{"join", "join", "leave"}).Draw(rt, "membership")) },
		func() { member(alice, rapid.SampledFrom([]string{"invite", "leave", "ban"}).Draw(rt, "by force")) },
	}
	actions = append(actions, other.actions(rt, r, eve, frank, something, look, func() {})...)
	for range rapid.IntRange(5, 40).Draw(rt, "steps") {
		rapid.SampledFrom(actions).Draw(rt, "action")()
	}
	member(alice, "leave")
	member(reader, "join")
	look()
}

func visibilityOf(rt *rapid.T, n int) json.RawMessage {
	v := rapid.SampledFrom([]string{"joined", "joined", "invited", "shared", "world_readable"}).Draw(rt, "visibility")
	return json.RawMessage(fmt.Sprintf(`{"history_visibility":%q,"n":%d}`, v, n))
}

// allowed is what the timeline shows of a room at a time, to a reader.
type allowed struct {
	events     map[id.EventID]*store.Event
	membership map[id.EventID]string
	now        string
	came       stream.Position
}

func (c *watcher) allowed() allowed {
	a := allowed{events: map[id.EventID]*store.Event{}, membership: map[id.EventID]string{}}
	c.w.must(c.w.db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(c.room)
		c.w.must(err)
		v, err := timeline.Look(tx, r, timeline.Reader{User: c.r.User, Device: c.r.Device})
		c.w.must(err)
		upto, err := tx.Position()
		c.w.must(err)
		list, err := tx.Events.Range(r.NID, 0, upto, 10_000, false)
		c.w.must(err)
		for _, e := range list {
			visible, err := v.Visible(e)
			c.w.must(err)
			if !visible {
				continue
			}
			forms, err := v.Form([]*store.Event{e})
			c.w.must(err)
			var form ev
			c.w.must(json.Unmarshal(forms[0], &form))
			a.events[e.ID], a.membership[e.ID] = e, form.Unsigned.Membership
		}
		changes, err := tx.Memberships.History(r.NID, c.r.User)
		for _, change := range changes {
			if a.now = change.Membership; a.now == "join" && change.Former != "join" {
				a.came = change.Position
			}
		}
		return err
	}))
	return a
}

// look syncs, and compares what is shown with what is allowed.
func (c *watcher) look() string {
	var since stream.Position
	if c.r.Since != nil {
		since = c.r.Since.Position
	}
	answer, allowed := c.next(), c.allowed()
	if left, ok := answer.Rooms.Leave[c.room]; ok {
		for _, e := range left.Timeline.Events {
			own := e.StateKey != nil && *e.StateKey == string(c.r.User)
			if allowed.events[e.ID] == nil && !own {
				return fmt.Sprintf("%s is shown in a room that was left", bodies([]ev{e}))
			}
		}
	}
	if allowed.now != "join" {
		return ""
	}
	j := answer.Rooms.Join[c.room]
	if j.Timeline.Limited {
		since = 0 // the reader is back
	}
	if problem := allowed.compare(j, since); problem != "" {
		return "next: " + problem
	}
	anew := newWorld(c.w.t, c.w.db).client(c.name, wholeTimeline)
	anew.r.Device, anew.r.UseStateAfter = "ANEW", true
	first := anew.next().Rooms.Join[c.room]
	if problem := allowed.compare(first, 0); problem != "" {
		return "first: " + problem
	}
	return c.compareCounts(allowed, j, first)
}

// compare finds what is shown in a timeline although it is not allowed, or the other way round.
func (a allowed) compare(j joined, since stream.Position) string {
	shown := map[id.EventID]bool{}
	for _, e := range j.Timeline.Events {
		shown[e.ID] = true
		if a.events[e.ID] == nil {
			return fmt.Sprintf("%s is shown, but not allowed: %s", bodies([]ev{e}), e.ID)
		}
		if got, want := e.Unsigned.Membership, a.membership[e.ID]; got != want {
			return fmt.Sprintf("%s is shown with membership %s, not %s", bodies([]ev{e}), got, want)
		}
	}
	for _, e := range a.events {
		if e.Position > since && !shown[e.ID] {
			return fmt.Sprintf("%s %s by %s is allowed, but not shown", e.Type, e.Content, e.Sender)
		}
	}
	return ""
}

// compareCounts compares what is unread, and what there are notifications of, with the messages that are allowed.
func (c *watcher) compareCounts(a allowed, next, first joined) string {
	want := 0
	for _, e := range a.events {
		if e.Type == "m.room.message" && e.Position > a.came {
			want++
		}
	}
	list, _, err := push.New(c.w.db, slog.New(slog.DiscardHandler)).Notifications(context.Background(), c.r.User, 0, 100, false)
	c.w.must(err)
	told := len(next.Timeline.Events) > 0
	if first.Unread.All != want || told && next.Unread.All != want || len(list) != want {
		return fmt.Sprintf("of %d messages %d are unread, %d in a first answer; there are %d notifications", want, next.Unread.All, first.Unread.All, len(list))
	}
	return ""
}
