package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// acl is a room's m.room.server_acl, read once.
type acl struct {
	event       *store.Event
	allow, deny []glob.Pattern // in lower case
	noLiterals  bool
}

// maxACL bounds how many patterns of one list count; an event has no room for more that mean anything.
const maxACL = 8192

var aclTuple = event.StateKeyTuple{Type: "m.room.server_acl"}

// ServerAllowed says whether a room's access list lets a server take part (Server-Server API, "Server Access
// Control Lists"). Rooms that are not known here, or have no list, let everyone. In a room that this server has left,
// the list stands as it was then: who was barred can't invite back into it.
func (e *Engine) ServerAllowed(ctx context.Context, roomID id.RoomID, server id.ServerName) (bool, error) {
	l, err := e.live(ctx, roomID)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	list, ev, d, err := e.accessList(ctx, l)
	if err != nil || ev == nil {
		return err == nil, err
	}
	// A list is a stranger's, and may be long: it is read and asked outside of the room's lock.
	if list == nil || list.event != ev {
		list = parseACL(ev)
		l.mu.Lock()
		l.acl = list
		l.mu.Unlock()
	}
	if list.allows(server) {
		return true, nil
	}
	// What is refused does not come again: the list has to be one that lasts.
	return false, d.certain(ctx)
}

// accessList is the room's list as it was last read, and the event that it has to be of; nil if there is none. The draft
// is the look at the room that showed it.
func (e *Engine) accessList(ctx context.Context, l *live) (*acl, *store.Event, *draft, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, err := e.draft(ctx, l)
	if err != nil {
		return nil, nil, nil, err
	}
	state, err := e.lookUp(ctx, &d.face, []event.StateKeyTuple{aclTuple})
	return l.acl, state[aclTuple], d, err
}

// mayTakePart is ServerAllowed as an error.
func (e *Engine) mayTakePart(ctx context.Context, roomID id.RoomID, server id.ServerName) error {
	ok, err := e.ServerAllowed(ctx, roomID, server)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the access list of %s bars %s", ErrForbidden, roomID, server)
	}
	return err
}

// parseACL reads a list.
func parseACL(ev *store.Event) *acl {
	var content map[string]json.RawMessage
	if json.Unmarshal(ev.Content, &content) != nil {
		content = nil
	}
	a := aclOf(content)
	a.event = ev
	return a
}

// aclOf reads a list. What is not as it should be counts as not given, and a list that allows nobody bars everybody.
func aclOf(content map[string]json.RawMessage) *acl {
	a := &acl{}
	var literals bool
	if raw, ok := content["allow_ip_literals"]; ok && json.Unmarshal(raw, &literals) == nil {
		a.noLiterals = !literals
	}
	a.allow, a.deny = patterns(content["allow"]), patterns(content["deny"])
	return a
}

func patterns(raw json.RawMessage) []glob.Pattern {
	var list []any
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out []glob.Pattern
	for _, entry := range list[:min(len(list), maxACL)] {
		if s, ok := entry.(string); ok {
			out = append(out, glob.New(strings.ToLower(s)))
		}
	}
	return out
}

func (a *acl) allows(server id.ServerName) bool {
	host := strings.ToLower(server.Host())
	if a.noLiterals {
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return false
		}
	}
	fits := func(p glob.Pattern) bool { return p.Matches(host) }
	return !slices.ContainsFunc(a.deny, fits) && slices.ContainsFunc(a.allow, fits)
}

// Refuse answers for events that are not looked at, so that each is named to whom sent it.
func (e *Engine) Refuse(ctx context.Context, roomID id.RoomID, raw []json.RawMessage, reason error) []Received {
	out := make([]Received, len(raw))
	l, err := e.live(ctx, roomID)
	for i, r := range raw {
		out[i].Err = reason
		if err != nil {
			continue
		}
		if ev, err := event.Parse(l.room.Version, r); err == nil {
			out[i].ID = ev.ID
		}
	}
	return out
}
