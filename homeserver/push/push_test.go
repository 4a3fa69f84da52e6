package push_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const alice, bob id.UserID = "@alice:one.test", "@bob:one.test"

func service(db *store.DB) *push.Service { return push.New(db, slog.New(slog.DiscardHandler)) }

func device(t *testing.T, db *store.DB, user id.UserID, name id.DeviceID) {
	t.Helper()
	err := db.Update(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Devices.Insert(store.Device{User: user, ID: name, CreatedAt: time.Now().UnixMilli()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestChangesAtOnceAreAllKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(db), context.Background()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				err := s.Change(ctx, bob, func(set *pushrule.Ruleset) error {
					return set.Put(pushrule.Room, pushrule.Rule{ID: fmt.Sprintf("!%d:h", i), Actions: json.RawMessage("[]")}, "", "")
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		set, err := s.Ruleset(ctx, bob)
		if err != nil || len(set.Room) != 20 {
			t.Errorf("%d rules are left, %v", len(set.Room), err)
		}
		refusal := errors.New("no")
		if err := s.Change(ctx, bob, func(set *pushrule.Ruleset) error { set.Room = nil; return refusal }); !errors.Is(err, refusal) {
			t.Errorf("got %v", err)
		}
		if err := s.CopyRoom(ctx, []id.UserID{alice, bob}, "!1:h", "!new:h"); err != nil {
			t.Fatal(err)
		}
		if set, err = s.Ruleset(ctx, bob); err != nil || len(set.Room) != 21 {
			t.Errorf("%d rules after copying one, %v", len(set.Room), err)
		}
		changed := func(user id.UserID) (n int) {
			err := db.View(ctx, func(tx *store.Tx) error {
				list, err := tx.AccountData.Changed(user, 0, db.Hub.Current())
				n = len(list)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if changed(bob) != 1 || changed(alice) != 0 {
			t.Error("the owner of changed rules, and nobody else, has to see them as account data")
		}
	})
}

func TestPushers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(db), context.Background()
		device(t, db, bob, "PHONE")
		device(t, db, bob, "LAPTOP")
		device(t, db, alice, "PHONE")
		p := push.Pusher{Kind: "http", AppID: "app", PushKey: "key", Lang: "en", Data: json.RawMessage(`{"url":"https://push.test/_matrix/push/v1/notify","x":1}`)}
		set := func(user id.UserID, device id.DeviceID, p push.Pusher, othersToo bool) {
			t.Helper()
			if err := s.SetPusher(ctx, user, device, p, othersToo); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(user id.UserID, want ...string) {
			t.Helper()
			list, err := s.Pushers(ctx, user)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, raw := range list {
				var p push.Pusher
				if err := json.Unmarshal(raw, &p); err != nil {
					t.Fatal(err)
				}
				got = append(got, p.PushKey+p.Lang)
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%s has %v, want %v", user, got, want)
			}
		}
		set(bob, "PHONE", p, false)
		p.Lang = "de"
		set(bob, "PHONE", p, false)
		expect(bob, "keyde")
		set(alice, "PHONE", p, true)
		expect(bob, "keyde")
		set(alice, "PHONE", p, false)
		expect(bob)
		set(bob, "PHONE", p, true)
		p.PushKey = "other"
		set(bob, "LAPTOP", p, true)
		expect(bob, "keyde", "otherde")
		err := db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Devices.Delete(bob, "PHONE")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		expect(bob, "otherde")
		expect(alice, "keyde")
		if err := s.DeletePusher(ctx, bob, "app", "other"); err != nil {
			t.Fatal(err)
		}
		expect(bob)
	})
}

// Notifications are looked for among a bounded number of bytes, and pages of them are bounded; they lead to all.
func TestNotificationsAreBoundedInBytes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		key, err := sign.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		rooms := &room.Engine{Store: db, Server: "one.test", Key: key, Log: log, DefaultVersion: event.DefaultVersion}
		s, ctx := service(db), context.Background()
		roomID, err := rooms.Create(ctx, room.Creation{Creator: alice, Preset: "public_chat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := rooms.SetMembership(ctx, room.Change{Room: roomID, Sender: bob, Target: bob, Membership: "join"}); err != nil {
			t.Fatal(err)
		}
		const messages, size = 80, 60_000
		content := json.RawMessage(`{"msgtype":"m.text","body":"` + strings.Repeat("a", size) + `"}`)
		for range messages {
			if _, err := rooms.Send(ctx, room.Message{Room: roomID, Sender: alice, Type: "m.room.message", Content: content}); err != nil {
				t.Fatal(err)
			}
		}
		pages, seen, from := 0, map[id.EventID]bool{}, stream.Position(0)
		for ; pages == 0 || from != 0; pages++ {
			list, next, err := s.Notifications(ctx, bob, from, 100, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(list)*size > 3<<20 {
				t.Errorf("a page has %d notifications", len(list))
			}
			for _, n := range list {
				seen[n.Event.ID] = true
			}
			from = next
		}
		if len(seen) != messages || pages < 3 {
			t.Errorf("%d pages show %d messages", pages, len(seen))
		}
	})
}

func TestBadPushers(t *testing.T) {
	good := push.Pusher{Kind: "http", AppID: strings.Repeat("a", 64), PushKey: strings.Repeat("k", 512), Data: json.RawMessage(`{"url":"https://push.test/_matrix/push/v1/notify"}`)}
	db := storetest.Open(t, t.TempDir()+"/test.db")
	s, ctx := service(db), context.Background()
	device(t, db, bob, "PHONE")
	if err := s.SetPusher(ctx, bob, "PHONE", good, false); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*push.Pusher){
		"long app":   func(p *push.Pusher) { p.AppID += "a" },
		"no app":     func(p *push.Pusher) { p.AppID = "" },
		"long key":   func(p *push.Pusher) { p.PushKey += "k" },
		"kind":       func(p *push.Pusher) { p.Kind = "email" },
		"plain http": func(p *push.Pusher) { p.Data = json.RawMessage(`{"url":"http://push.test/_matrix/push/v1/notify"}`) },
		"other path": func(p *push.Pusher) { p.Data = json.RawMessage(`{"url":"https://push.test/admin"}`) },
		"no url":     func(p *push.Pusher) { p.Data = json.RawMessage(`{}`) },
		"no data":    func(p *push.Pusher) { p.Data = json.RawMessage(`[]`) },
		"large data": func(p *push.Pusher) { p.Data = json.RawMessage(`{"x":"` + strings.Repeat("x", 16<<10) + `"}`) },
		"half of a character": func(p *push.Pusher) {
			p.Data = json.RawMessage(`{"url":"https://push.test/_matrix/push/v1/notify","x":"\ud800"}`)
		},
		"large names": func(p *push.Pusher) { p.Lang = strings.Repeat("x", 1025) },
	} {
		p := good
		spoil(&p)
		if err := s.SetPusher(ctx, bob, "PHONE", p, false); !errors.Is(err, push.ErrBadPusher) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotifications(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		key, err := sign.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		rooms := &room.Engine{Store: db, Server: "one.test", Key: key, Log: log, DefaultVersion: event.DefaultVersion}
		s, ctx := service(db), context.Background()
		roomID, err := rooms.Create(ctx, room.Creation{Creator: alice, Preset: "public_chat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		send := func(sender id.UserID, content string) {
			t.Helper()
			if _, err := rooms.Send(ctx, room.Message{Room: roomID, Sender: sender, Type: "m.room.message", Content: json.RawMessage(content)}); err != nil {
				t.Fatal(err)
			}
		}
		send(alice, `{"body":"before bob came"}`)
		if err := rooms.Join(ctx, room.Change{Room: roomID, Sender: bob, Target: bob}); err != nil {
			t.Fatal(err)
		}
		send(alice, `{"body":"one"}`)
		send(bob, `{"body":"my own"}`)
		send(alice, `{"body":"two","m.mentions":{"room":true}}`)
		send(bob, `{"body":"@room, hear!"}`)
		send(alice, `{"body":"three"}`)

		list, _, err := s.Notifications(ctx, bob, 0, 2, false)
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		upto := map[id.UserID]stream.Position{bob: list[1].Position}
		err = db.Update(ctx, func(tx *store.Tx) error {
			r := store.Receipt{Room: list[1].Event.Room, User: bob, Type: "m.read", Event: list[1].Event.ID, EventAt: list[1].Position}
			tx.Receipts.Set(r, roomID, nil)
			r.Thread, r.EventAt = "$elsewhere", list[0].Position
			tx.Receipts.Set(r, roomID, nil)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		bodies := func(user id.UserID, limit int, highlights bool) (pages []string) {
			t.Helper()
			var before stream.Position
			for first := true; first || before > 0; first = false {
				list, next, err := s.Notifications(ctx, user, before, limit, highlights)
				if err != nil {
					t.Fatal(err)
				}
				var page []string
				for _, n := range list {
					if n.Read != (n.Position <= upto[user]) {
						t.Errorf("%s has read up to %d, but %d counts as %v", user, upto[user], n.Position, n.Read)
					}
					var content struct{ Body string }
					if err := json.Unmarshal(n.Event.Content, &content); err != nil {
						t.Fatal(err)
					}
					page = append(page, content.Body)
				}
				pages = append(pages, strings.Join(page, ","))
				before = next
			}
			return pages
		}
		for _, test := range []struct {
			user       id.UserID
			limit      int
			highlights bool
			want       string
		}{
			{bob, 10, false, "three,two,one"},
			{bob, 2, false, "three,two|one"},
			{bob, 10, true, "two"}, // alice may notify the room
			{alice, 10, true, ""},  // bob may not
			{alice, 10, false, "@room, hear!,my own"},
			{"@carol:one.test", 10, false, ""},
		} {
			if got := strings.Join(bodies(test.user, test.limit, test.highlights), "|"); got != test.want {
				t.Errorf("%+v: got %q", test, got)
			}
		}
		err = db.Update(ctx, func(tx *store.Tx) error {
			tx.AccountData.Set(alice, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@alice:one.test":{},"@bob:one.test":{}}}`))
			return nil
		})
		if got := strings.Join(bodies(alice, 10, false), "|"); err != nil || got != "" {
			t.Errorf("of somebody ignored, got %q, %v", got, err)
		}
	})
}

// TestReadInThreads: what relates to an event in a thread is read with the thread.
func TestReadInThreads(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		key, err := sign.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		rooms := &room.Engine{Store: db, Server: "one.test", Key: key, Log: slog.New(slog.DiscardHandler), DefaultVersion: event.DefaultVersion}
		s, ctx := service(db), context.Background()
		roomID, err := rooms.Create(ctx, room.Creation{Creator: alice, Preset: "public_chat"}, nil)
		if err == nil {
			err = rooms.Join(ctx, room.Change{Room: roomID, Sender: bob, Target: bob})
		}
		if err != nil {
			t.Fatal(err)
		}
		send := func(body, relType string, to id.EventID) id.EventID {
			t.Helper()
			content := fmt.Sprintf(`{"body":%q}`, body)
			if relType != "" {
				content = fmt.Sprintf(`{"body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, body, relType, to)
			}
			eventID, err := rooms.Send(ctx, room.Message{Room: roomID, Sender: alice, Type: "m.room.message", Content: json.RawMessage(content)})
			if err != nil {
				t.Fatal(err)
			}
			return eventID
		}
		root := send("root", "", "")
		answer := send("answer", "m.thread", root)
		send("about the answer", "m.reference", answer)
		send("elsewhere", "", "")
		send("about the root", "m.reference", root)
		last := send("last answer", "m.thread", root)
		err = db.Update(ctx, func(tx *store.Tx) error {
			ev, err := tx.Events.Get(last)
			if err == nil {
				tx.Receipts.Set(store.Receipt{Room: ev.Room, User: bob, Type: "m.read", Thread: string(root), Event: last, EventAt: ev.Position}, roomID, nil)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := s.Notifications(ctx, bob, 0, 10, false)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range list {
			var content struct{ Body string }
			if err := json.Unmarshal(n.Event.Content, &content); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(content.Body, " ", n.Read))
		}
		if want := "last answer true, about the root false, elsewhere false, about the answer true, answer true, root false"; strings.Join(got, ", ") != want {
			t.Errorf("read are %s", strings.Join(got, ", "))
		}
	})
}
