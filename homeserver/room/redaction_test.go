package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// forge makes an event on top of a room as one engine sees it, signed by another, and puts it nowhere. Predecessors may
// be given.
func forge(t *testing.T, seen, by *room.Engine, roomID id.RoomID, p event.Proto) *store.Event {
	t.Helper()
	var out *store.Event
	err := seen.Store.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		head, err := tx.Rooms.Head(r.NID)
		if err != nil {
			return err
		}
		state, err := tx.States.Map(head.State)
		if err != nil {
			return err
		}
		if p.RoomID = roomID; p.Content == nil {
			p.Content = json.RawMessage(`{}`)
		}
		p.Hashes = map[id.EventID]string{}
		for _, x := range head.Extremities {
			if p.Depth = max(p.Depth, x.Depth+1); len(p.PrevEvents) < len(head.Extremities) {
				p.PrevEvents = append(p.PrevEvents, x.ID)
			}
		}
		for _, needed := range eventauth.AuthEventsNeeded(r.Version, p.Type, p.StateKey, p.Sender, p.Content) {
			a, err := tx.States.Event(state, needed)
			if err != nil {
				return err
			}
			if a != nil {
				p.AuthEvents = append(p.AuthEvents, a.ID)
			}
		}
		named, err := tx.Events.ByID(append(slices.Clone(p.PrevEvents), p.AuthEvents...)...)
		if err != nil {
			return err
		}
		for _, ev := range named {
			p.Hashes[ev.ID] = ev.ReferenceHash()
		}
		for _, i := range p.PrevEvents {
			if p.Hashes[i] == "" {
				p.Hashes[i] = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
			}
		}
		p.OriginServerTS = 1000
		v, err := event.Build(r.Version, p, by.Server, by.Key)
		if err == nil {
			out = &store.Event{Event: v.Event()}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// known is what is known of an event, read from the database anew.
func known(t *testing.T, db *store.DB, eventID id.EventID) (ev *store.Event) {
	t.Helper()
	err := db.View(context.Background(), func(tx *store.Tx) (err error) {
		ev, err = tx.Events.Get(eventID)
		return err
	})
	if err != nil || ev == nil {
		t.Fatalf("%s is not here: %v", eventID, err)
	}
	return ev
}

// seen says whether clients see an event in the room's history.
func seen(t *testing.T, db *store.DB, roomID id.RoomID, eventID id.EventID) bool {
	t.Helper()
	var list []*store.Event
	err := db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err == nil {
			list, err = tx.Events.Range(r.NID, math.MinInt64, math.MaxInt32, math.MaxInt32, false)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list, func(ev *store.Event) bool { return ev.ID == eventID })
}

// TestRedactionsThatNobodyAllowed are shown to nobody, nor are those of other rooms' events and those whose target is
// still to come (room version 3, "Handling redactions").
func TestRedactionsThatNobodyAllowed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, version := range []id.RoomVersion{"3", "10", "12"} {
			one, two := pair(t, db)
			bob := id.UserID("@bob:" + string(otherServer))
			roomID, err := two.Create(context.Background(), room.Creation{Creator: bob, Preset: "public_chat", Version: version}, nil)
			if err != nil {
				t.Fatal(err)
			}
			rejoin(t, one, roomID)
			deliver(t, one, two, timeline(t, db, roomID)[0])
			elsewhere := create(t, one, room.Creation{Preset: "public_chat", Version: version})
			foreign := send(t, one, room.Message{Room: elsewhere, Sender: user("alice"), Type: "m.room.message"})
			said := send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message"})
			deliver(t, two, one, said)
			redact := func(by *room.Engine, sender id.UserID, target id.EventID) id.EventID {
				ev := forge(t, one, by, roomID, event.Proto{Type: event.TypeRedaction, Sender: sender, Redacts: target})
				deliver(t, by, one, ev)
				return ev.ID
			}
			for what, r := range map[string]id.EventID{
				"without power":           redact(one, user("alice"), said.ID),
				"of another room's":       redact(two, bob, foreign.ID),
				"of the m.room.create":    redact(two, bob, timeline(t, two.Store, roomID)[0].ID),
				"of what is not here yet": redact(two, bob, "$nosuch"),
			} {
				if seen(t, db, roomID, r) || known(t, db, r).Outlier() {
					t.Errorf("version %s: a redaction %s is shown, or has no place", version, what)
				}
			}
			if known(t, db, said.ID).RedactedBy != 0 || known(t, db, foreign.ID).RedactedBy != 0 {
				t.Errorf("version %s: a redaction took effect that may not", version)
			}
			next := forge(t, one, two, roomID, event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{"body":"secret"}`)})
			early := redact(two, bob, next.ID)
			if seen(t, db, roomID, early) {
				t.Errorf("version %s: a redaction is shown before its target", version)
			}
			deliver(t, two, one, next)
			target, shown := known(t, db, next.ID), known(t, db, early)
			if target.RedactedBy != shown.NID || string(target.Content) != "{}" || !seen(t, db, roomID, early) || shown.Position < target.Position {
				t.Errorf("version %s: the target came as %s, the redaction stands at %d", version, target.Content, shown.Position)
			}
		}
	})
}

// TestRedactedStateOfAJoin: state that came with a join can be redacted like any other, in what is derived from it too, and
// stays so when it gets its place in the history.
func TestRedactedStateOfAJoin(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, version := range []id.RoomVersion{"1", "10", "12"} {
			one, two := pair(t, db)
			ctx := context.Background()
			bob := id.UserID("@bob:" + string(otherServer))
			roomID, err := two.Create(ctx, room.Creation{Creator: bob, Preset: "public_chat", Version: version, Name: "secret name", Topic: "secret topic", Profile: room.Profile{DisplayName: "secret bob"}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			rejoin(t, one, roomID)
			deliver(t, one, two, timeline(t, db, roomID)[0])
			var targets []*store.Event
			for _, ev := range timeline(t, two.Store, roomID) {
				if ev.Type == "m.room.name" || ev.Type == "m.room.topic" || ev.StateKeyIs(event.TypeMember, string(bob)) {
					targets = append(targets, ev)
					deliver(t, two, one, send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeRedaction, Redacts: ev.ID}))
				}
			}
			if len(targets) != 3 {
				t.Fatalf("%d events to redact", len(targets))
			}
			check := func(when string) {
				t.Helper()
				for _, ev := range targets {
					if got := known(t, db, ev.ID); got.RedactedBy == 0 || len(got.Content) > len(`{"membership":"join"}`) {
						t.Errorf("version %s, %s: %s is %s", version, when, ev.Type, got.Content)
					}
				}
				var s store.Summary
				err := db.View(ctx, func(tx *store.Tx) error {
					r, err := tx.Rooms.ByID(roomID)
					if err == nil {
						s, err = tx.Rooms.Summary(r.NID)
					}
					return err
				})
				if err != nil || s.Name+s.Topic != "" {
					t.Errorf("version %s, %s: the summary says %q, %q, %v", version, when, s.Name, s.Topic, err)
				}
			}
			check("at once")
			for range 5 {
				if n, err := one.Backfill(ctx, roomID, 50); err != nil || n == 0 {
					break
				}
			}
			if known(t, db, targets[0].ID).Outlier() {
				t.Fatal("the past did not come")
			}
			check("with its place")
		}
	})
}

// TestNamingOtherRoomsHoldsUpNobody: an event that names another room's is rejected but has its place, so that what follows it is
// taken (Server-Server API, "Rejection").
func TestNamingOtherRoomsHoldsUpNobody(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		ctx := context.Background()
		bob := id.UserID("@bob:" + string(otherServer))
		roomID, err := two.Create(ctx, room.Creation{Creator: bob, Preset: "public_chat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		rejoin(t, one, roomID)
		elsewhere := create(t, one, room.Creation{Preset: "public_chat"})
		foreign := send(t, one, room.Message{Room: elsewhere, Sender: user("alice"), Type: "m.room.message"})
		for what, p := range map[string]event.Proto{
			"before it":      {PrevEvents: []id.EventID{foreign.ID}},
			"authorizing it": {AuthEvents: []id.EventID{foreign.ID}},
		} {
			p.Type, p.Sender, p.Content = "m.room.message", bob, json.RawMessage(fmt.Sprintf(`{"body":%q}`, what))
			bad := forge(t, one, two, roomID, p)
			if r := one.Receive(ctx, two.Server, roomID, []json.RawMessage{bad.JSON}); r[0].Err == nil {
				t.Errorf("%s: an event that names another room's was taken", what)
			}
			if got := known(t, db, bad.ID); !got.Rejected || got.Outlier() {
				t.Errorf("%s: it is not remembered as rejected", what)
			}
			next := forge(t, one, two, roomID, event.Proto{Type: "m.room.message", Sender: bob, PrevEvents: []id.EventID{bad.ID}})
			deliver(t, two, one, next) // nothing is asked for: there is nobody to ask
			if !seen(t, db, roomID, next.ID) || seen(t, db, roomID, bad.ID) {
				t.Errorf("%s: its follower is not in the room, or it is", what)
			}
		}
	})
}
