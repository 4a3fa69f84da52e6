package timeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// world is a server with rooms, and the timeline that is tested.
type world struct {
	*testing.T
	rooms *room.Engine
	*timeline.Service
}

func each(t *testing.T, test func(w *world)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { test(newWorld(t, db)) })
}

func newWorld(t *testing.T, db *store.DB) *world {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	return &world{
		T: t, Service: &timeline.Service{Store: db, Log: log},
		rooms: &room.Engine{Store: db, Server: "one.test", Key: key, Log: log, DefaultVersion: event.DefaultVersion},
	}
}

func user(name string) id.UserID { return id.UserID("@" + name + ":one.test") }

func reader(name string) timeline.Reader {
	return timeline.Reader{User: user(name), Device: id.DeviceID(name + "-device")}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// create makes a room of alice that anyone may join.
func (w *world) create(visibility string) id.RoomID {
	w.Helper()
	content, err := json.Marshal(map[string]string{"history_visibility": visibility})
	w.must(err)
	roomID, err := w.rooms.Create(context.Background(), room.Creation{
		Creator: user("alice"), Preset: "public_chat",
		InitialState: []room.StateEvent{{Type: event.TypeHistoryVisibility, Content: content}},
	}, nil)
	w.must(err)
	return roomID
}

func (w *world) member(roomID id.RoomID, sender, target, membership string) {
	w.Helper()
	w.must(w.rooms.SetMembership(context.Background(), room.Change{Room: roomID, Sender: user(sender), Target: user(target), Membership: membership}))
}

func (w *world) say(roomID id.RoomID, sender, body string) id.EventID {
	w.Helper()
	return w.send(room.Message{Room: roomID, Sender: user(sender), Type: "m.room.message", Content: content(map[string]any{"body": body, "msgtype": "m.text"})})
}

func (w *world) send(m room.Message) id.EventID {
	w.Helper()
	eventID, err := w.rooms.Send(context.Background(), m)
	w.must(err)
	return eventID
}

// relate sends a message that relates to another.
func (w *world) relate(roomID id.RoomID, sender, relType string, to id.EventID) id.EventID {
	w.Helper()
	c := map[string]any{"body": relType, "m.relates_to": map[string]any{"rel_type": relType, "event_id": to}}
	if relType == "m.replace" {
		c["m.new_content"] = map[string]any{"body": "better"}
	}
	return w.send(room.Message{Room: roomID, Sender: user(sender), Type: "m.room.message", Content: content(c)})
}

func (w *world) setState(roomID id.RoomID, sender, typ string, c map[string]any) id.EventID {
	w.Helper()
	key := ""
	return w.send(room.Message{Room: roomID, Sender: user(sender), Type: typ, StateKey: &key, Content: content(c)})
}

func content(c map[string]any) json.RawMessage {
	raw, _ := json.Marshal(c) // what tests put in always encodes
	return raw
}

// shown is an event as a client reads it.
type shown struct {
	ID       id.EventID     `json:"event_id"`
	RoomID   id.RoomID      `json:"room_id"`
	Type     string         `json:"type"`
	StateKey *string        `json:"state_key"`
	Content  map[string]any `json:"content"`
	Unsigned map[string]any `json:"unsigned"`
}

func (w *world) parse(raw json.RawMessage) shown {
	w.Helper()
	var s shown
	if err := json.Unmarshal(raw, &s); err != nil {
		w.Fatalf("%s: %v", raw, err)
	}
	return s
}

// bodies names events by their body, or by type and membership.
func (w *world) bodies(events []json.RawMessage) string {
	w.Helper()
	names := []string{}
	for _, raw := range events {
		s := w.parse(raw)
		switch {
		case s.Type == event.TypeMember:
			names = append(names, fmt.Sprint(s.Content["membership"], " ", *s.StateKey))
		case s.Content["body"] != nil:
			names = append(names, fmt.Sprint(s.Content["body"]))
		default:
			names = append(names, s.Type)
		}
	}
	return fmt.Sprint(names)
}

func (w *world) equal(what, got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func (w *world) members(roomID id.RoomID, r timeline.Reader, q timeline.MemberQuery) (out []json.RawMessage, err error) {
	err = w.Members(context.Background(), roomID, r, q, func(list []json.RawMessage) error {
		out = append(out, list...)
		return nil
	})
	return out, err
}

func (w *world) joined(roomID id.RoomID, r timeline.Reader) (map[id.UserID]timeline.Member, error) {
	out := map[id.UserID]timeline.Member{}
	err := w.JoinedMembers(context.Background(), roomID, r, func(u id.UserID, m timeline.Member) error {
		out[u] = m
		return nil
	})
	return out, err
}
