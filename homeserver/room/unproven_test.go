package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const thirdServer id.ServerName = "three.test"

var (
	errNotNow   = errors.New("the key can't be had at the moment")
	errNotEver  = fmt.Errorf("the key can't be had: %w", sign.ErrNotSigned)
	lateMessage = room.Message{Type: "m.room.message"}
)

// keyless is a link without the keys of a server, that tells of events between others and of what authorizes them as it likes.
type keyless struct {
	*link
	missing, auth []json.RawMessage
	of            id.ServerName
	why           error
}

func (k *keyless) MissingEvents(context.Context, id.ServerName, id.RoomID, []id.EventID, []id.EventID, int) ([]json.RawMessage, error) {
	return k.missing, nil
}

func (k *keyless) EventAuth(context.Context, id.ServerName, id.RoomID, id.EventID) ([]json.RawMessage, error) {
	return k.auth, nil
}

func (k *keyless) Verify(ctx context.Context, witness id.ServerName, events []*event.Event) []room.VerifyResult {
	out := k.link.Verify(ctx, witness, events)
	for i, ev := range events {
		if k.why != nil && ev.Sender.Server() == k.of {
			out[i] = room.VerifyResult{Err: k.why, Lacks: k.of}
		}
	}
	return out
}

// trio is a room of three servers' users, where the first asks the second and may lack the keys of the third.
type trio struct {
	t               *testing.T
	one, two, three *room.Engine
	remote          *keyless
	room            id.RoomID
	bob, carol      id.UserID
}

// newTrio makes a room in which bob lets carol do everything.
func newTrio(t *testing.T, db *store.DB) *trio {
	t.Helper()
	one, two := pair(t, db)
	three := engine(t, storetest.Open(t, filepath.Join(t.TempDir(), "three.db")))
	three.Server = thirdServer
	keys := one.Remote.(*link).keys
	keys[thirdServer] = three.Key
	three.Remote = &link{from: thirdServer, to: two, keys: keys}
	s := &trio{t: t, one: one, two: two, three: three, bob: id.UserID("@bob:" + string(otherServer)), carol: id.UserID("@carol:" + string(thirdServer))}
	s.remote = &keyless{link: one.Remote.(*link), of: thirdServer}
	one.Remote = s.remote
	var err error
	s.room, err = two.Create(t.Context(), room.Creation{Creator: s.bob, Preset: "public_chat", Version: "11"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := three.Join(t.Context(), room.Change{Room: s.room, Sender: s.carol, Target: s.carol, Via: []id.ServerName{otherServer}}); err != nil {
		t.Fatal(err)
	}
	empty := ""
	s.tell(s.say(two, room.Message{Type: event.TypePowerLevels, StateKey: &empty, Content: json.RawMessage(`{"users":{"` + string(s.bob) + `":100,"` + string(s.carol) + `":100}}`)}), three)
	return s
}

// say sends something for bob or carol.
func (s *trio) say(by *room.Engine, m room.Message) *store.Event {
	s.t.Helper()
	m.Room, m.Sender = s.room, s.bob
	if by == s.three {
		m.Sender = s.carol
	}
	return send(s.t, by, m)
}

// tell delivers an event to a server.
func (s *trio) tell(ev *store.Event, to *room.Engine) {
	s.t.Helper()
	from := s.two
	if ev.Sender == s.carol {
		from = s.three
	}
	deliver(s.t, from, to, ev)
}

// join has alice come in by way of the second server.
func (s *trio) join() error {
	return s.one.Join(s.t.Context(), room.Change{Room: s.room, Sender: user("alice"), Target: user("alice"), Via: []id.ServerName{otherServer}})
}

func (s *trio) receive(ev *event.Event) error {
	return s.one.Receive(s.t.Context(), otherServer, s.room, []json.RawMessage{ev.JSON})[0].Err
}

func (s *trio) has(ev *store.Event) bool {
	s.t.Helper()
	var got *store.Event
	err := s.one.Store.View(s.t.Context(), func(tx *store.Tx) (err error) {
		got, err = tx.Events.Get(ev.ID)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return got != nil && !got.Rejected && !got.Outlier()
}

// TestEventsWaitForKeysOfWhatTheyFollow: that the key of what an event names can't be had at the moment is no verdict on the event.
func TestEventsWaitForKeysOfWhatTheyFollow(t *testing.T) {
	for name, prepare := range map[string]func(s *trio) (last *event.Event, taken []*store.Event){
		"a predecessor": func(s *trio) (*event.Event, []*store.Event) {
			before := s.say(s.three, lateMessage)
			s.tell(before, s.two)
			between, last := s.say(s.two, lateMessage), s.say(s.two, lateMessage)
			s.remote.missing = []json.RawMessage{before.JSON, between.JSON}
			return last.Event, []*store.Event{before, between, last}
		},
		"the state behind a gap": func(s *trio) (*event.Event, []*store.Event) {
			topic := ""
			s.tell(s.say(s.three, room.Message{Type: "m.room.topic", StateKey: &topic, Content: json.RawMessage(`{"topic":"x"}`)}), s.two)
			between, last := s.say(s.two, lateMessage), s.say(s.two, lateMessage)
			s.remote.missing = []json.RawMessage{between.JSON}
			return last.Event, []*store.Event{between, last}
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				s := newTrio(t, db)
				if err := s.join(); err != nil {
					t.Fatal(err)
				}
				last, taken := prepare(s)
				s.remote.why = errNotNow
				if err := s.receive(last); !errors.Is(err, errNotNow) {
					t.Errorf("without the key: %v", err)
				}
				s.remote.why = nil
				if err := s.receive(last); err != nil {
					t.Errorf("with the key: %v", err)
				}
				for _, ev := range taken {
					if !s.has(ev) {
						t.Errorf("%s of %s is not here", ev.ID, ev.Sender)
					}
				}
			})
		})
	}
}

// TestEventsWaitForKeysOfWhatAuthorizesThem is the same for an event that names one that nobody has heard of among its auth events.
func TestEventsWaitForKeysOfWhatAuthorizesThem(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newTrio(t, db)
		if err := s.join(); err != nil {
			t.Fatal(err)
		}
		last := s.say(s.two, lateMessage)
		s.tell(last, s.one)
		topic := ""
		aside := s.say(s.three, room.Message{Type: "m.room.topic", StateKey: &topic, Content: json.RawMessage(`{"topic":"x"}`)})
		made, err := event.Build(last.Version, event.Proto{
			Type: "m.room.message", Sender: s.bob, RoomID: s.room, Content: json.RawMessage(`{"body":"x"}`),
			PrevEvents: []id.EventID{last.ID}, AuthEvents: append([]id.EventID{aside.ID}, last.AuthEvents...), Depth: last.Depth + 1, OriginServerTS: last.OriginServerTS,
		}, otherServer, s.two.Key)
		if err != nil {
			t.Fatal(err)
		}
		s.remote.auth = []json.RawMessage{aside.JSON}
		s.remote.why = errNotNow
		if err := s.receive(made.Event()); !errors.Is(err, errNotNow) {
			t.Errorf("without the key: %v", err)
		}
		s.remote.why = nil
		if err := s.receive(made.Event()); !errors.Is(err, room.ErrForbidden) {
			t.Errorf("an event that a topic is to authorize: %v", err)
		}
	})
}

// TestLiarsMakeNobodyWait: an event does not wait for what it does not follow, nor any longer for keys that nobody hopes for.
func TestLiarsMakeNobodyWait(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newTrio(t, db)
		if err := s.join(); err != nil {
			t.Fatal(err)
		}
		gone := s.say(s.three, lateMessage)
		s.tell(gone, s.two)
		between, last := s.say(s.two, lateMessage), s.say(s.two, lateMessage)
		s.remote.missing, s.remote.why = []json.RawMessage{gone.JSON, between.JSON}, errNotEver
		if err := s.receive(last.Event); err != nil || !s.has(between) {
			t.Errorf("behind an event that nobody can verify any more: %v", err)
		}
		between, last = s.say(s.two, lateMessage), s.say(s.two, lateMessage)
		s.remote.missing, s.remote.why = []json.RawMessage{s.say(s.three, lateMessage).JSON, between.JSON}, errNotNow
		if err := s.receive(last.Event); err != nil || !s.has(between) {
			t.Errorf("beside an event that nobody can verify: %v", err)
		}
	})
}

// TestJoinNeedsKeysOfDecisiveState: without the key of what forbids something in a room nobody comes into it; without that of a
// user's coming everybody does.
func TestJoinNeedsKeysOfDecisiveState(t *testing.T) {
	empty, mallory := "", "@mallory:four.test"
	for name, c := range map[string]struct {
		typ, content string
		key          *string
		needed       bool
	}{
		"a ban":                {event.TypeMember, `{"membership":"ban"}`, &mallory, true},
		"join rules":           {event.TypeJoinRules, `{"join_rule":"public"}`, &empty, true},
		"power levels":         {event.TypePowerLevels, "", &empty, true},
		"an access list":       {"m.room.server_acl", `{"allow":["*"]}`, &empty, true},
		"a history visibility": {event.TypeHistoryVisibility, `{"history_visibility":"joined"}`, &empty, true},
		"what nobody knows":    {"test.rule", `{}`, &empty, true},
		"an invite":            {event.TypeMember, `{"membership":"invite"}`, &mallory, false},
		"a topic":              {"m.room.topic", `{"topic":"x"}`, &empty, false},
		"nothing but the join": {"m.room.message", `{"body":"x"}`, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				s := newTrio(t, db)
				if c.content == "" {
					c.content = `{"users":{"` + string(s.bob) + `":100,"` + string(s.carol) + `":100},"ban":60}`
				}
				s.tell(s.say(s.three, room.Message{Type: c.typ, StateKey: c.key, Content: json.RawMessage(c.content)}), s.two)
				for _, why := range []error{errNotNow, errNotEver} {
					if s.remote.why = why; !c.needed {
						continue
					}
					err := s.join()
					keyless := (*room.KeylessError)(nil)
					if !errors.Is(err, room.ErrUnreachable) || !errors.As(err, &keyless) || keyless.Server != thirdServer {
						t.Errorf("without the key: %v", err)
					}
				}
				if c.needed {
					s.remote.why = nil
				}
				if err := s.join(); err != nil {
					t.Error(err)
				}
				if !c.needed {
					return
				}
				// What was verified once needs no key any more.
				leaveForGood(t, s.one, s.room, true)
				s.remote.why = errNotEver
				if err := s.join(); err != nil {
					t.Errorf("coming again, without the key: %v", err)
				}
			})
		})
	}
}

// lines counts the lines of a log.
type lines struct{ n atomic.Int64 }

func (l *lines) Write(p []byte) (int, error) {
	l.n.Add(1)
	return len(p), nil
}

// TestManyAtFaultAreOneLine: what another server tells and is set aside is told of once for each answer, however much it is.
func TestManyAtFaultAreOneLine(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newTrio(t, db)
		if err := s.join(); err != nil {
			t.Fatal(err)
		}
		const many = 100
		var unknown, unverified, unjudged []json.RawMessage
		for i := range many {
			unknown = append(unknown, json.RawMessage("0"))
			unverified = append(unverified, s.say(s.three, room.Message{Type: "m.room.message", Content: fmt.Appendf(nil, `{"n":%d}`, i)}).JSON)
			v, _ := event.VersionOf("11")
			alone, err := event.Build(v, event.Proto{
				RoomID: s.room, Type: "m.room.message", Sender: s.bob, Content: fmt.Appendf(nil, `{"n":%d}`, i),
				PrevEvents: []id.EventID{"$a"}, AuthEvents: []id.EventID{"$nobodyhasit"}, Depth: 1, OriginServerTS: 1,
			}, otherServer, s.two.Key)
			if err != nil {
				t.Fatal(err)
			}
			unjudged = append(unjudged, alone.Event().JSON)
		}
		s.remote.why = errNotEver
		for name, answer := range map[string][]json.RawMessage{"no events": unknown, "unverified": unverified, "without what authorizes them": unjudged} {
			var log lines
			s.one.Log, s.remote.auth = slog.New(slog.NewTextHandler(&log, nil)), answer
			v, _ := event.VersionOf("11")
			prev := s.say(s.two, lateMessage)
			s.tell(prev, s.one)
			last, err := event.Build(v, event.Proto{
				RoomID: s.room, Type: "m.room.message", Sender: s.bob, Content: json.RawMessage(`{}`),
				PrevEvents: []id.EventID{prev.ID}, AuthEvents: []id.EventID{"$nobodyhasiteither"}, Depth: prev.Depth + 1, OriginServerTS: 1,
			}, otherServer, s.two.Key)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.receive(last.Event()); !errors.Is(err, room.ErrForbidden) {
				t.Errorf("%s: %v", name, err)
			}
			if n := log.n.Load(); n == 0 || n > 5 {
				t.Errorf("%s: %d lines for %d at fault", name, n, many)
			}
		}
	})
}
