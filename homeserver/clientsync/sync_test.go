package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const server id.ServerName = "one.test"

// world is what a sync needs, with users who do things.
type world struct {
	t     testing.TB
	db    *store.DB
	rooms *room.Engine
	eph   *ephemeral.Service
	sync  *clientsync.Engine
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w := &world{t: t, db: db}
	w.rooms = &room.Engine{Store: db, Server: server, Key: key, Log: log, DefaultVersion: event.DefaultVersion}
	w.eph = ephemeral.New(ephemeral.Options{Store: db, Server: server, Rooms: w.rooms, Log: log})
	w.sync = clientsync.New(clientsync.Options{
		Store: db, Server: server, Keys: &keys.Service{Store: db, Server: server, Log: log}, Ephemeral: w.eph, Log: log,
	})
	return w
}

func user(name string) id.UserID { return id.UserID("@" + name + ":" + string(server)) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(name string, c room.Creation) id.RoomID {
	w.t.Helper()
	c.Creator = user(name)
	if c.Preset == "" {
		c.Preset = "public_chat"
	}
	r, err := w.rooms.Create(context.Background(), c, nil)
	w.must(err)
	return r
}

func (w *world) set(roomID id.RoomID, sender, target, membership string) {
	w.t.Helper()
	w.must(w.rooms.SetMembership(context.Background(), room.Change{Room: roomID, Sender: user(sender), Target: user(target), Membership: membership}))
}

func (w *world) join(roomID id.RoomID, name string) { w.t.Helper(); w.set(roomID, name, name, "join") }

func (w *world) send(roomID id.RoomID, name, typ, content string) id.EventID {
	w.t.Helper()
	e, err := w.rooms.Send(context.Background(), room.Message{Room: roomID, Sender: user(name), Type: typ, Content: json.RawMessage(content)})
	w.must(err)
	return e
}

func (w *world) say(roomID id.RoomID, name, text string) id.EventID {
	w.t.Helper()
	return w.send(roomID, name, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))
}

func (w *world) state(roomID id.RoomID, name, typ, key, content string) id.EventID {
	w.t.Helper()
	e, err := w.rooms.Send(context.Background(), room.Message{Room: roomID, Sender: user(name), Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	w.must(err)
	return e
}

// client syncs for a user.
type client struct {
	w *world
	r clientsync.Request
}

func (w *world) client(name, filterJSON string) *client {
	w.t.Helper()
	c := &client{w: w, r: clientRequest(name, strings.ToUpper(name), nil)}
	if filterJSON != "" {
		f, err := filter.Parse([]byte(filterJSON))
		w.must(err)
		c.r.Filter = f
	}
	return c
}

func clientRequest(name, device string, f *filter.Filter) clientsync.Request {
	return clientsync.Request{User: user(name), Device: id.DeviceID(device), Filter: f}
}

type ev struct {
	ID       id.EventID      `json:"event_id"`
	TS       int64           `json:"origin_server_ts"`
	Type     string          `json:"type"`
	Sender   id.UserID       `json:"sender"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Unsigned struct {
		Membership  string          `json:"membership"`
		Prev        json.RawMessage `json:"prev_content"`
		Because     json.RawMessage `json:"redacted_because"`
		By          id.EventID      `json:"redacted_by"`
		Transaction string          `json:"transaction_id"`
		Relations   struct {
			Replace struct {
				ID string `json:"event_id"`
			} `json:"m.replace"`
			Thread struct{ Count int } `json:"m.thread"`
		} `json:"m.relations"`
	} `json:"unsigned"`
}

type events struct {
	Events []ev `json:"events"`
}

type counts struct {
	Highlight int `json:"highlight_count"`
	All       int `json:"notification_count"`
}

type joined struct {
	Timeline struct {
		events
		Limited bool   `json:"limited"`
		Prev    string `json:"prev_batch"`
	} `json:"timeline"`
	State       *events           `json:"state"`
	StateAfter  *events           `json:"state_after"`
	Ephemeral   events            `json:"ephemeral"`
	AccountData events            `json:"account_data"`
	Summary     json.RawMessage   `json:"summary"`
	Unread      counts            `json:"unread_notifications"`
	Threads     map[string]counts `json:"unread_thread_notifications"`
}

type answer struct {
	Next        string         `json:"next_batch"`
	AccountData events         `json:"account_data"`
	Presence    events         `json:"presence"`
	ToDevice    events         `json:"to_device"`
	Counts      map[string]int `json:"device_one_time_keys_count"`
	Fallback    []string       `json:"device_unused_fallback_key_types"`
	Rooms       struct {
		Join   map[id.RoomID]joined `json:"join"`
		Leave  map[id.RoomID]joined `json:"leave"`
		Invite map[id.RoomID]struct {
			State events `json:"invite_state"`
		} `json:"invite"`
	} `json:"rooms"`
	empty bool
}

// next syncs from where the client stands.
func (c *client) next() *answer {
	c.w.t.Helper()
	got, err := c.w.sync.Sync(context.Background(), c.r)
	c.w.must(err)
	defer got.Close()
	var text []byte
	c.w.must(got.Each(context.Background(), func(piece []byte) error { text = append(text, piece...); return nil }))
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		c.w.t.Fatalf("the answer is not JSON: %v\n%s", err, text)
	}
	if a.Next != got.Next.String() {
		c.w.t.Errorf("next_batch is %s, not %s", a.Next, got.Next)
	}
	a.empty = got.Empty
	token, err := stream.ParseToken(a.Next)
	c.w.must(err)
	c.r.Since = &token
	return &a
}

func bodies(list []ev) string {
	var out []string
	for _, e := range list {
		var c struct{ Body, Membership, Name string }
		_ = json.Unmarshal(e.Content, &c) // other contents have none of these
		switch {
		case c.Body != "":
			out = append(out, c.Body)
		case c.Membership != "":
			out = append(out, string(e.Sender.Localpart())+" "+c.Membership)
		default:
			out = append(out, strings.TrimPrefix(e.Type, "m.room."))
		}
	}
	return strings.Join(out, ", ")
}

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n  %s, not\n  %s", what, got, want)
	}
}

func TestFirstAndNext(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		alice := w.client("alice", "")
		a := alice.next()
		check(t, "the first timeline", bodies(a.Rooms.Join[r].Timeline.Events), "create, alice join, power_levels, join_rules, history_visibility")
		if j := a.Rooms.Join[r]; j.Timeline.Limited || j.State == nil || len(j.State.Events) != 0 {
			t.Errorf("the room is %+v", j)
		}
		if a.Counts["signed_curve25519"] != 0 || a.Counts == nil || a.Fallback == nil {
			t.Error("the counts of keys are missing")
		}
		if len(a.AccountData.Events) != 1 || a.AccountData.Events[0].Type != "m.push_rules" {
			t.Errorf("account data is %+v", a.AccountData)
		}
		if a = alice.next(); !a.empty || len(a.Rooms.Join) != 0 {
			t.Errorf("nothing happened, but there is %+v", a)
		}
		w.say(r, "alice", "one")
		w.state(r, "alice", "m.room.name", "", `{"name":"A"}`)
		w.state(r, "alice", "m.room.name", "", `{"name":"B"}`)
		a = alice.next()
		list := a.Rooms.Join[r].Timeline.Events
		check(t, "the next timeline", bodies(list), "one, name, name")
		if got := string(list[2].Unsigned.Prev); got != `{"name":"A"}` {
			t.Errorf("prev_content is %s", got)
		}
		if a.Rooms.Join[r].State != nil {
			t.Error("state was told that is in the timeline")
		}
	})
}

func TestLimitedTimelineBringsState(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		few, after := w.client("alice", `{"room":{"timeline":{"limit":2}}}`), w.client("alice", `{"room":{"timeline":{"limit":2}}}`)
		after.r.UseStateAfter, after.r.Device = true, "OTHER"
		a := few.next()
		check(t, "the first state", bodies(a.Rooms.Join[r].State.Events), "create, alice join, power_levels")
		if !a.Rooms.Join[r].Timeline.Limited {
			t.Error("the timeline lacks events, but is not limited")
		}
		a = after.next()
		check(t, "the state after", bodies(a.Rooms.Join[r].StateAfter.Events), "create, alice join, power_levels, join_rules, history_visibility")
		w.state(r, "alice", "m.room.name", "", `{"name":"A"}`)
		w.state(r, "alice", "m.room.topic", "", `{"topic":"A"}`)
		w.say(r, "alice", "one")
		w.say(r, "alice", "two")
		w.state(r, "alice", "m.room.name", "", `{"name":"B"}`)
		a = few.next()
		check(t, "the timeline", bodies(a.Rooms.Join[r].Timeline.Events), "two, name")
		check(t, "the state", bodies(a.Rooms.Join[r].State.Events), "name, topic")
		a = after.next()
		check(t, "the state after", bodies(a.Rooms.Join[r].StateAfter.Events), "topic, name")
		if got := string(a.Rooms.Join[r].StateAfter.Events[1].Content); got != `{"name":"B"}` {
			t.Errorf("the name after is %s", got)
		}
		w.say(r, "alice", "three")
		if a = after.next(); a.Rooms.Join[r].StateAfter == nil || len(a.Rooms.Join[r].StateAfter.Events) != 0 {
			t.Errorf("the state after a message is %+v", a.Rooms.Join[r].StateAfter)
		}
	})
}

func TestMembershipsMoveRooms(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{Preset: "private_chat"})
		w.say(r, "alice", "before")
		bob, again := w.client("bob", ""), w.client("bob", "")
		bob.next()
		again.next()
		w.set(r, "alice", "bob", "invite")
		a := bob.next()
		if s := a.Rooms.Invite[r].State.Events; len(s) == 0 || len(a.Rooms.Join) != 0 {
			t.Errorf("the invite shows %+v", s)
		} else if invite := s[len(s)-1]; bodies([]ev{invite}) != "alice invite" || invite.ID == "" || invite.TS == 0 {
			t.Errorf("when and by which event bob is invited is not told: %+v", invite)
		}
		w.join(r, "bob")
		a = bob.next()
		j := a.Rooms.Join[r]
		check(t, "the timeline", bodies(j.Timeline.Events), "create, alice join, power_levels, join_rules, history_visibility, guest_access, before, alice invite, bob join")
		if !j.Timeline.Limited || j.State == nil || len(a.Rooms.Invite) != 0 {
			t.Error("a new room does not replace what was known of it")
		}
		for _, e := range j.Timeline.Events {
			want := map[string]string{"bob join": "join", "alice invite": "invite"}[bodies([]ev{e})]
			if want == "" {
				want = "leave"
			}
			if e.Unsigned.Membership != want {
				t.Errorf("%s was told with membership %q", bodies([]ev{e}), e.Unsigned.Membership)
			}
		}
		w.say(r, "alice", "while")
		w.set(r, "bob", "bob", "leave")
		w.say(r, "alice", "after")
		a = bob.next()
		check(t, "the timeline of the room left", bodies(a.Rooms.Leave[r].Timeline.Events), "while, bob leave")
		if len(a.Rooms.Join) != 0 {
			t.Error("a room that was left is still joined")
		}
		if a = bob.next(); !a.empty {
			t.Error("a room that was left is told of again")
		}
		a = again.next()
		check(t, "the timeline of a room that was joined and left", bodies(a.Rooms.Leave[r].Timeline.Events),
			"create, alice join, power_levels, join_rules, history_visibility, guest_access, before, alice invite, bob join, while, bob leave")
		archive := w.client("bob", `{"room":{"include_leave":true,"timeline":{"limit":1}}}`).next()
		check(t, "the archive", bodies(archive.Rooms.Leave[r].Timeline.Events), "bob leave")
		if plain := w.client("bob", "").next(); len(plain.Rooms.Leave) != 0 {
			t.Error("a room that was left is told of to who did not ask for it")
		}
		w.set(r, "alice", "bob", "ban")
		if plain := w.client("bob", "").next(); len(plain.Rooms.Leave) != 1 {
			t.Errorf("who was banned is told of %d rooms left", len(plain.Rooms.Leave))
		}
	})
}

func TestRejectedInviteShowsNothingElse(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{Preset: "private_chat"})
		bob := w.client("bob", "")
		bob.next()
		w.set(r, "alice", "bob", "invite")
		w.say(r, "alice", "secret")
		w.set(r, "bob", "bob", "leave")
		a := bob.next()
		check(t, "the timeline", bodies(a.Rooms.Leave[r].Timeline.Events), "bob leave")
		if s := a.Rooms.Leave[r].State; s != nil && len(s.Events) > 0 {
			t.Errorf("who was never in the room sees its state: %s", bodies(s.Events))
		}
	})
}

func TestInviteDeclinedInEmptyRoom(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{Preset: "private_chat"})
		bob := w.client("bob", "")
		bob.next()
		w.set(r, "alice", "bob", "invite")
		bob.next()
		w.set(r, "alice", "alice", "leave")
		w.must(w.rooms.Leave(context.Background(), room.Change{Room: r, Sender: user("bob")}))
		check(t, "the timeline", bodies(bob.next().Rooms.Leave[r].Timeline.Events), "bob leave")
		if a := bob.next(); !a.empty {
			t.Error("the declined invite is told of again")
		}
	})
}

func TestHistoryVisibility(t *testing.T) {
	for visibility, want := range map[string]string{
		"joined": "bob join, three", "invited": "alice invite, two, bob join, three",
		"shared": "history_visibility, one, alice invite, two, bob join, three",
	} {
		t.Run(visibility, func(t *testing.T) {
			w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
			r := w.create("alice", room.Creation{Preset: "private_chat"})
			w.state(r, "alice", "m.room.history_visibility", "", `{"history_visibility":"joined"}`)
			w.state(r, "alice", "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, visibility))
			w.say(r, "alice", "one")
			w.set(r, "alice", "bob", "invite")
			w.say(r, "alice", "two")
			w.join(r, "bob")
			w.say(r, "alice", "three")
			list := bodies(w.client("bob", "").next().Rooms.Join[r].Timeline.Events)
			if !strings.HasSuffix(list, want) || visibility == "joined" && strings.Contains(list, "one") {
				t.Errorf("bob sees %s", list)
			}
		})
	}
}

func TestLazyMembers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{Name: "Named"})
		for _, n := range []string{"bob", "carol", "dave"} {
			w.join(r, n)
		}
		w.say(r, "bob", "one")
		alice := w.client("alice", `{"room":{"state":{"lazy_load_members":true,"types":["m.room.member"]},"timeline":{"limit":1}}}`)
		check(t, "the first members", bodies(alice.next().Rooms.Join[r].State.Events), "alice join, bob join")
		w.say(r, "bob", "two")
		if a := alice.next(); a.Rooms.Join[r].State != nil {
			t.Errorf("members told of before are told of again: %s", bodies(a.Rooms.Join[r].State.Events))
		}
		w.say(r, "carol", "three")
		before := *alice.r.Since
		check(t, "the new members", bodies(alice.next().Rooms.Join[r].State.Events), "carol join")
		alice.r.Since = &before
		check(t, "the members when the answer was lost", bodies(alice.next().Rooms.Join[r].State.Events), "carol join")
	})
}

func TestTransactionIDsAndRedactions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		one, two := w.client("alice", ""), w.client("alice", "")
		two.r.Device = "OTHER"
		one.next()
		two.next()
		key := &store.RequestKey{User: user("alice"), Device: one.r.Device, Scope: "send", TxnID: "t1"}
		eventID, err := w.rooms.Send(context.Background(), room.Message{Room: r, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`), Request: key})
		w.must(err)
		if e := one.next().Rooms.Join[r].Timeline.Events[0]; e.Unsigned.Transaction != "t1" {
			t.Errorf("the sending device sees %+v", e)
		}
		if e := two.next().Rooms.Join[r].Timeline.Events[0]; e.Unsigned.Transaction != "" {
			t.Errorf("another device sees %+v", e)
		}
		redaction, err := w.rooms.Redact(context.Background(), r, user("alice"), eventID, json.RawMessage(`{"reason":"oops"}`), nil)
		w.must(err)
		for _, e := range w.client("alice", "").next().Rooms.Join[r].Timeline.Events {
			if e.ID == eventID && (string(e.Content) != "{}" || !strings.Contains(string(e.Unsigned.Because), "oops") || e.Unsigned.By != redaction) {
				t.Errorf("the redacted event is %+v", e)
			}
		}
	})
}

func TestFilters(t *testing.T) {
	w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
	r, other := w.create("alice", room.Creation{}), w.create("alice", room.Creation{})
	w.join(r, "bob")
	for _, tt := range []struct{ name, filter, want string }{
		{"types", `{"room":{"timeline":{"types":["m.room.mess*"]}}}`, "hi, file, bob"},
		{"not types", `{"room":{"timeline":{"not_types":["m.room.message"]}}}`, "name"},
		{"senders", `{"room":{"timeline":{"senders":["@bob:one.test"]}}}`, "bob"},
		{"not senders", `{"room":{"timeline":{"not_senders":["@bob:one.test"]}}}`, "hi, file, name"},
		{"contains url", `{"room":{"timeline":{"contains_url":true}}}`, "file"},
		{"limit", `{"room":{"timeline":{"limit":1}}}`, "name"},
		{"other room", `{"room":{"rooms":["` + string(other) + `"]}}`, ""},
		{"not room", `{"room":{"not_rooms":["` + string(r) + `"]}}`, ""},
	} {
		c := w.client("alice", tt.filter)
		c.next()
		w.say(r, "alice", "hi")
		w.send(r, "alice", "m.room.message", `{"body":"file","url":"mxc://one.test/x"}`)
		w.say(r, "bob", "bob")
		w.state(r, "alice", "m.room.name", "", fmt.Sprintf(`{"name":%q}`, tt.name))
		check(t, tt.name, bodies(c.next().Rooms.Join[r].Timeline.Events), tt.want)
	}
	c := w.client("alice", `{"event_fields":["content.body","type"]}`)
	c.next()
	w.say(r, "alice", "hi")
	got, err := w.sync.Sync(context.Background(), c.r)
	w.must(err)
	if want := `"events":[{"content":{"body":"hi"},"type":"m.room.message"}]`; !strings.Contains(string(got.Body), want) {
		t.Errorf("with event_fields there is %s", got.Body)
	}
}

func TestIgnoredUsers(t *testing.T) {
	w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
	r := w.create("alice", room.Creation{})
	w.join(r, "bob")
	alice := w.client("alice", "")
	alice.next()
	w.must(w.db.Update(context.Background(), func(tx *store.Tx) error {
		tx.AccountData.Set(user("alice"), "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@bob:one.test":{}}}`))
		return nil
	}))
	w.say(r, "bob", "spam")
	w.say(r, "alice", "peace")
	theirs := w.create("bob", room.Creation{Preset: "private_chat"})
	w.set(theirs, "bob", "alice", "invite")
	a := alice.next()
	check(t, "the timeline", bodies(a.Rooms.Join[r].Timeline.Events), "peace")
	if len(a.Rooms.Invite) != 0 || len(a.AccountData.Events) != 1 {
		t.Errorf("alice is told %+v", a)
	}
}

func TestWaiting(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r, other := w.create("alice", room.Creation{}), w.create("carol", room.Creation{})
		bob := w.client("bob", "")
		w.join(r, "bob")
		bob.next()
		bob.r.Timeout = time.Minute
		got := make(chan *answer)
		go func() { got <- bob.next() }()
		w.say(other, "carol", "not for bob")
		w.say(r, "alice", "hi")
		check(t, "the timeline", bodies((<-got).Rooms.Join[r].Timeline.Events), "hi")
		bob.r.Timeout = time.Millisecond
		if a := bob.next(); !a.empty {
			t.Errorf("after waiting for nothing there is %+v", a)
		}
		ctx, cancel := context.WithCancel(context.Background())
		bob.r.Timeout = time.Minute
		ended := make(chan error)
		go func() {
			_, err := w.sync.Sync(ctx, bob.r)
			ended <- err
		}()
		cancel()
		if err := <-ended; err == nil {
			t.Error("a sync whose client has gone has an answer")
		}
	})
}

// TestOldTokens: what memory no longer holds is read from the database, with the same outcome.
func TestNoWaitingWhileDraining(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		draining := make(chan struct{})
		close(draining)
		w.sync.Draining = draining
		first, err := w.sync.Sync(t.Context(), clientsync.Request{User: user("alice")})
		w.must(err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		answer, err := w.sync.Sync(ctx, clientsync.Request{User: user("alice"), Since: &first.Next, Timeout: clientsync.MaxTimeout})
		if err != nil || !answer.Empty {
			t.Errorf("got %v, empty %v", err, answer.Empty)
		}
	})
}

func TestOldTokens(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 2, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		idle := w.create("alice", room.Creation{})
		bob := w.client("bob", "")
		w.join(r, "bob")
		w.join(idle, "bob")
		bob.next()
		left := w.create("alice", room.Creation{})
		w.join(left, "bob")
		w.set(left, "bob", "bob", "leave")
		e := w.say(r, "alice", "one")
		w.must(w.eph.SetMarks(context.Background(), r, user("bob"), ephemeral.Mark{Type: ephemeral.Read, Event: e}, ephemeral.Mark{Type: ephemeral.FullyRead, Event: e}))
		w.say(r, "alice", "two")
		w.must(db.Close())
		w = newWorld(t, storetest.Open(t, address))
		bob.w = w
		a := bob.next()
		j := a.Rooms.Join[r]
		check(t, "the timeline", bodies(j.Timeline.Events), "one, two")
		if len(j.Ephemeral.Events) != 1 || len(j.AccountData.Events) != 1 || j.Unread.All != 1 {
			t.Errorf("the room is %+v", j)
		}
		if _, told := a.Rooms.Join[idle]; told {
			t.Error("a room where nothing happened is told of")
		}
		if _, told := a.Rooms.Leave[left]; !told {
			t.Error("a room that was left is not told of")
		}
		if a := bob.next(); !a.empty {
			t.Errorf("nothing happened since, but there is %+v", a)
		}
	})
}
