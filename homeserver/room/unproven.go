package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// KeylessError is an ErrUnreachable: what is to be known of a room is signed with a key that can't be had.
type KeylessError struct{ Server id.ServerName }

var errKeyless = &KeylessError{}

func (k *KeylessError) Error() string {
	return fmt.Sprintf("a signing key of %s can't be had, and without it what the room's state says can't be checked; it may work later, or by way of another server", k.Server)
}

// Is makes it an ErrUnreachable, and one of its kind.
func (k *KeylessError) Is(target error) bool {
	return target == ErrUnreachable || target == errKeyless //nolint:errorlint // the very errors
}

// unproven is an event of which it is not known whether it is genuine: a key of lacks can't be had, or something here is at fault.
type unproven struct {
	ev    *event.Event
	lacks id.ServerName
	err   error
}

// refusal is why what hangs on the event can't be done.
func (u unproven) refusal() error {
	if u.lacks == "" {
		return u.err
	}
	return fmt.Errorf("%w: %w", &KeylessError{u.lacks}, u.err)
}

// passing is why one of some events may turn out to be genuine later; nil if that is to be hoped of none. Servers that
// are gone are not waited for.
func passing(left []unproven) error {
	for _, u := range left {
		if fault(u.err) {
			return u.err
		}
	}
	return nil
}

// toldOf is how many of many events at fault are named in the log, and toldBytes how much is said of each.
const (
	toldOf    = 3
	toldBytes = 300
)

// tally counts what is set aside of what another server told: that may be 200,000 entries of two bytes, which are no lines each.
type tally struct {
	count int
	first []string
}

func (t *tally) add(ev id.EventID, err error) {
	if t.count++; len(t.first) < toldOf {
		text := strings.TrimSpace(fmt.Sprintf("%s %v", ev, err))
		t.first = append(t.first, strings.ToValidUTF8(text[:min(len(text), toldBytes)], ""))
	}
}

// tell tells of all at once, if there are any.
func (t *tally) tell(log *slog.Logger, what string, about ...any) {
	if t.count > 0 {
		log.Info(what, append(about, "count", t.count, "first", t.first)...)
	}
}

// check parses and verifies events of a room of which a server tells. What is malformed, of another room or badly signed is
// left out and logged. So is, but told of, what can't be verified.
func (e *Engine) check(ctx context.Context, room *store.Room, server id.ServerName, raw []json.RawMessage) (out []event.Verified, left []unproven) {
	events, _ := e.parse(room, raw)
	return e.verify(ctx, room, server, events)
}

// parse is the first part of check. It also returns the ID of each event that it was given; empty for those left out.
func (e *Engine) parse(room *store.Room, raw []json.RawMessage) (events []*event.Event, ids []id.EventID) {
	if len(raw) > maxDescribe {
		raw = raw[:maxDescribe]
	}
	var bad tally
	seen := map[id.EventID]bool{}
	ids = make([]id.EventID, len(raw))
	for i, r := range raw {
		ev, err := event.Parse(room.Version, r)
		if err == nil && ev.RoomID != room.ID {
			err = errors.New("it is of another room")
		}
		if err != nil {
			bad.add("", err)
			continue
		}
		if ids[i] = ev.ID; !seen[ev.ID] {
			seen[ev.ID] = true
			events = append(events, ev)
		}
	}
	bad.tell(e.Log, "events are set aside", "room", room.ID)
	return events, ids
}

// verify is the second part of check.
func (e *Engine) verify(ctx context.Context, room *store.Room, server id.ServerName, events []*event.Event) (out []event.Verified, left []unproven) {
	var bad tally
	for i, result := range e.Remote.Verify(ctx, server, events) {
		if result.Err == nil {
			out = append(out, result.Verified)
			continue
		}
		bad.add(events[i].ID, result.Err)
		if result.Lacks != "" || fault(result.Err) {
			left = append(left, unproven{events[i], result.Lacks, result.Err})
		}
	}
	bad.tell(e.Log, "events are set aside: they can't be verified", "room", room.ID, "server", server)
	return out, left
}

// spare decides whether a room can do without what could not be verified of its description, and without what can't be
// judged for that reason: only without what gives its users rights and takes none from anybody. What is here from before
// was verified then, and is added to what is known.
func (e *Engine) spare(ctx context.Context, room *store.Room, described []event.Verified, left []unproven, known map[id.EventID]*store.Event) error {
	if len(left) == 0 {
		return nil
	}
	ids := make([]id.EventID, len(left))
	for i, u := range left {
		ids[i] = u.ev.ID
	}
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Events.ByID(ids...)
		for _, ev := range list {
			if ev.Room == room.NID {
				known[ev.ID] = ev
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	lost := map[id.EventID]unproven{}
	lose := func(ev *event.Event, why unproven) error {
		lost[ev.ID] = why
		if decisive(ev) {
			return why.refusal()
		}
		return nil
	}
	for _, u := range left {
		if known[u.ev.ID] == nil {
			if err := lose(u.ev, u); err != nil {
				return err
			}
		}
	}
	for _, v := range sorted(described, authEvents) {
		ev := v.Event()
		if known[ev.ID] != nil {
			continue
		}
		for _, a := range ev.AuthEvents {
			if u, ok := lost[a]; ok {
				if err := lose(ev, u); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// decisive says whether a state event can take a right from somebody, or tells who has one: without it somebody could
// do what the room forbids. What nobody has thought of is. Users' coming and going is not: they lack rights here until
// they are known to have come. What is shown of the room isn't either, nor what users say of themselves.
func decisive(ev *event.Event) bool {
	if ev.StateKey == nil {
		return false
	}
	own := *ev.StateKey == string(ev.Sender)
	switch ev.Type {
	case event.TypeMember:
		m := ev.Membership()
		return m != "invite" && !(own && (m == "join" || m == "leave" || m == "knock"))
	case event.TypeThirdPartyInvite, event.TypeAliases, "m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias",
		"m.room.pinned_events", "m.space.child", "m.space.parent":
		return false
	}
	return !own
}
