package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// strippedTypes are what who is invited may see (Client-Server API, "Stripped state").
var strippedTypes = []string{
	event.TypeCreate, event.TypeJoinRules, "m.room.canonical_alias", "m.room.avatar", typeName, "m.room.encryption", "m.room.topic",
}

const (
	typeName = "m.room.name"

	// maxStripped bounds what is kept of stripped state, in bytes, with the event of the member. What does not fit is left
	// out, the largest pieces first.
	maxStripped = 16 << 10
	// maxMember is the size up to which the member's event is shown whole, maxField that of a field of its content which is
	// shown else, and maxBrief that of other pieces which are among what tells a room apart.
	maxMember = 4 << 10
	maxField  = 260
	maxBrief  = 512

	// maxPending is how many invites of one server, or of one user of this server, a user may have that are not answered
	// yet, and maxForeign how many of all other servers together. What is kept of them is bounded in bytes too: none is
	// taken in once there are as many.
	maxPending, maxPendingBytes = 50, 512 << 10
	maxForeign, maxForeignBytes = 500, 5 << 20
)

// piece is a piece of stripped state.
type piece struct {
	typ   string
	shown []byte
}

// shownOf is what is kept of an invite or a knock for the user's clients: stripped state, the member's event included.
func shownOf(member *event.Event, state []piece) *store.Asked {
	reduced := reducedMember(member)
	whole := member.SyncJSON(nil) // clients show when and by which event they were invited
	if len(whole) > maxMember {
		whole = reduced
	}
	state = slices.Clone(state)
	slices.SortStableFunc(state, func(a, b piece) int { return len(a.shown) - len(b.shown) })
	var full, brief []byte
	left := maxStripped - len(whole) - len("[]")
	for _, p := range state {
		if left -= len(p.shown) + 1; left < 0 {
			break
		}
		full = append(append(full, p.shown...), ',')
		if (p.typ == typeName || p.typ == event.TypeMember) && len(p.shown) <= maxBrief {
			brief = append(append(brief, p.shown...), ',')
		}
	}
	return &store.Asked{
		Sender: member.Sender, Bytes: len(member.JSON) + len(full) + len(whole),
		Stripped: slices.Concat([]byte{'['}, full, whole, []byte{']'}), Brief: slices.Concat([]byte{'['}, brief, reduced, []byte{']'}),
	}
}

// reducedMember is a member's event with no more of its content than clients show, and that only where it is short.
func reducedMember(member *event.Event) []byte {
	content := []byte(`{}`)
	for _, key := range []string{"avatar_url", "displayname", "is_direct", "membership", "reason"} {
		if value := canonicaljson.Get(member.Content, key); value != nil && len(value) <= maxField {
			content = canonicaljson.With(content, key, value)
		}
	}
	reduced := *member
	reduced.Content = content
	return reduced.SyncJSON(nil)
}

// stripped is what is kept of the room for the user of a membership event. Of m.room.create clients get all, as other
// servers do (MSC4311).
func (d *draft) stripped(ctx context.Context, member *event.Event) (*store.Asked, error) {
	events, err := d.strippedEvents(ctx, member.Sender)
	if err != nil {
		return nil, err
	}
	var state []piece
	for _, ev := range events {
		switch {
		case len(ev.Content) > maxStripped:
		case ev.Type == event.TypeCreate:
			state = append(state, piece{ev.Type, ev.Event.SyncJSON(nil)})
		default:
			state = append(state, piece{ev.Type, ev.StrippedJSON()})
		}
	}
	return shownOf(member, state), nil
}

// strippedPDUs is the stripped state for another server: whole events, by which it can check the room's ID and version
// and who said what (Server-Server API v1.16, "Inviting to a room").
func (d *draft) strippedPDUs(ctx context.Context, sender id.UserID) ([]json.RawMessage, error) {
	events, err := d.strippedEvents(ctx, sender)
	out := make([]json.RawMessage, len(events))
	for i, ev := range events {
		out[i] = ev.JSON
	}
	return out, err
}

func (d *draft) strippedEvents(ctx context.Context, sender id.UserID) ([]*store.Event, error) {
	tuples := []event.StateKeyTuple{{Type: event.TypeMember, StateKey: string(sender)}}
	for _, t := range strippedTypes {
		tuples = append(tuples, event.StateKeyTuple{Type: t})
	}
	state, err := d.e.lookUp(ctx, &d.face, tuples)
	if err != nil {
		return nil, err
	}
	var out []*store.Event
	for _, t := range tuples {
		if ev := state[t]; ev != nil {
			out = append(out, ev)
		}
	}
	return out, nil
}

// strippedForms reduces what another server calls stripped state to what clients may see of it, and to the types that
// the specification lists besides the membership of the event's sender. m.room.create may be a whole event, and is then
// shown whole.
func strippedForms(v *event.Version, sender id.UserID, given []json.RawMessage) []piece {
	var out []piece
	seen := map[string]bool{}
	for _, raw := range given {
		var s struct {
			Type     string          `json:"type"`
			StateKey *string         `json:"state_key"`
			Sender   id.UserID       `json:"sender"`
			Content  json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &s) != nil || s.StateKey == nil || len(s.Content) == 0 || s.Content[0] != '{' || seen[s.Type] {
			continue
		}
		if s.Type == event.TypeMember && *s.StateKey != string(sender) || s.Type != event.TypeMember && (*s.StateKey != "" || !slices.Contains(strippedTypes, s.Type)) {
			continue
		}
		shown, err := json.Marshal(s)
		if s.Type == event.TypeCreate {
			if create, err := event.Parse(v, raw); err == nil {
				shown = create.SyncJSON(nil)
			}
		}
		if err != nil {
			continue
		}
		seen[s.Type] = true
		out = append(out, piece{s.Type, shown})
	}
	return out
}

// checkPending refuses a further invite of a user, into a room that may be 0 if it is not here yet, if the user has many
// of the inviting user's server already, or of all other servers; of local users each counts alone.
func checkPending(tx *store.Tx, user, sender id.UserID, room store.RoomNID) error {
	var err error
	var one, all store.Invited
	if sender.Server() == user.Server() {
		one, err = tx.Memberships.InvitesBy(user, sender, room)
	} else {
		one, all, err = tx.Memberships.InvitesFrom(user, sender.Server(), room)
	}
	if err == nil && (one.Count >= maxPending || one.Bytes >= maxPendingBytes || all.Count >= maxForeign || all.Bytes >= maxForeignBytes) {
		err = fmt.Errorf("%w: %s has many invites that are not answered yet", ErrTooMany, user)
	}
	return err
}

// mayInvite is checkPending ahead of all work for a user of this server.
func (e *Engine) mayInvite(ctx context.Context, c *Change) error {
	if c.Membership != "invite" || c.Target.Server() != e.Server {
		return nil
	}
	return e.Store.View(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(c.Room)
		if err != nil || room == nil {
			return err
		}
		return checkPending(tx, c.Target, c.Sender, room.NID)
	})
}
