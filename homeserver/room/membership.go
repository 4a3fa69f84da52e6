package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Change is a change of somebody's membership that a local user wants.
type Change struct {
	Room       id.RoomID
	Sender     id.UserID
	Target     id.UserID
	Membership string // "join", "invite", "leave", "ban" or "knock"
	Profile    Profile
	Reason     string
	IsDirect   bool
	// Extra members of the content, as clients may give them with a join.
	Extra map[string]json.RawMessage
	// Via names servers to ask when the room is not known here.
	Via []id.ServerName
	// authorised is the user by whose right somebody joins a restricted room, as JSON. It is never the client's to say.
	authorised json.RawMessage
	// asShown says that the profile is the user's, as read before: it may be out of date once the change is written.
	asShown bool
	// Only, if not empty, is what the target's membership has to be before: "ban" to unban, for one.
	Only []string
}

// authorisedVia is the member of a join's content that names who authorised it.
const authorisedVia = "join_authorised_via_users_server"

func (c *Change) content() (json.RawMessage, error) {
	content := map[string]any{}
	for k, v := range c.Extra {
		content[k] = v
	}
	delete(content, authorisedVia)
	if c.authorised != nil {
		content[authorisedVia] = c.authorised
	}
	maps.Copy(content, c.Profile.content(c.Membership))
	if c.Reason != "" {
		content["reason"] = c.Reason
	}
	if c.IsDirect {
		content["is_direct"] = true
	}
	return json.Marshal(content)
}

// SetMembership changes a membership in a room that this server is in. Setting it to what it is already is no error
// and makes no event. Errors: ErrNotFound, ErrForbidden, ErrBadRequest.
func (e *Engine) SetMembership(ctx context.Context, c Change) error {
	key := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(c.Target)}
	if err := e.mayInvite(ctx, &c); err != nil {
		return err
	}
	if _, err := e.Store.StateKey(ctx, key); err != nil {
		return err
	}
	return e.change(ctx, c.Room, func(d *draft) error {
		if c.Membership == "join" && len(d.local) == 0 && len(d.additions) == 0 {
			// What is known here may be long out of date: others went on without this server.
			return fmt.Errorf("%w: nobody of this server is in %s any more", ErrNotFound, c.Room)
		}
		if c.Sender != c.Target && !slices.Contains(d.local, c.Sender) {
			// Before anything else: no other answer may tell a stranger who is in the room.
			return fmt.Errorf("%w: %s is not in the room", ErrForbidden, c.Sender)
		}
		state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{key})
		if err != nil {
			return err
		}
		former := state[key]
		if err := c.fits(former); err != nil {
			return err
		}
		if c.Membership == "join" {
			if err := d.authorise(ctx, &c); err != nil {
				return err
			}
		}
		content, err := c.content()
		if err != nil {
			return err
		}
		if former != nil && former.Membership() == c.Membership && sameContent(d.room.Version, former, content) {
			return nil
		}
		target := string(c.Target)
		v, err := d.build(ctx, event.Proto{Type: event.TypeMember, StateKey: &target, Sender: c.Sender, Content: content})
		if err != nil {
			return err
		}
		a, err := d.add(ctx, v)
		if err == nil && c.asShown {
			a.shown = &c.Profile
		}
		return err
	})
}

// ShowProfile brings fields of a user's profile, "displayname" or "avatar_url", into a room that the user is in. The rest
// of the membership's content, a name that the user chose for this room perhaps, stays. It returns the size of the event that it wrote, 0 if the room shows them already.
func (e *Engine) ShowProfile(ctx context.Context, roomID id.RoomID, user id.UserID, p Profile, fields ...string) (size int, err error) {
	key := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)}
	if _, err := e.Store.StateKey(ctx, key); err != nil {
		return 0, err
	}
	profile := p.content("join")
	err = e.change(ctx, roomID, func(d *draft) error {
		size = 0 // it may be built again
		state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{key})
		if err != nil || state[key] == nil || state[key].Membership() != "join" {
			return err
		}
		content := map[string]json.RawMessage{}
		if err := json.Unmarshal(state[key].Content, &content); err != nil {
			return fmt.Errorf("read the membership of %s: %w", user, err)
		}
		changed := false
		for _, field := range fields {
			wanted, err := json.Marshal(profile[field])
			if err != nil {
				return err
			}
			if profile[field] == nil {
				wanted = nil
			}
			if former, _ := canonicaljson.String(content[field]); former == p.field(field) && (content[field] == nil) == (wanted == nil) {
				continue
			}
			if content[field], changed = wanted, true; wanted == nil {
				delete(content, field)
			}
		}
		if !changed {
			return nil
		}
		// What was said of the join itself does not hold for this.
		delete(content, authorisedVia)
		delete(content, "reason")
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		target := string(user)
		v, err := d.build(ctx, event.Proto{Type: event.TypeMember, StateKey: &target, Sender: user, Content: raw})
		if err != nil {
			return err
		}
		size = len(v.Event().JSON)
		_, err = d.add(ctx, v)
		return err
	})
	return size, err
}

// fits checks the membership that a change begins from.
func (c *Change) fits(former *store.Event) error {
	membership := "leave"
	if former != nil {
		membership = former.Membership()
	}
	if len(c.Only) == 0 {
		return nil
	}
	for _, only := range c.Only {
		if membership == only {
			return nil
		}
	}
	return fmt.Errorf("%w: %s is not %s in the room", ErrForbidden, c.Target, participle[c.Only[0]])
}

var participle = map[string]string{"ban": "banned", "join": "joined", "invite": "invited", "knock": "knocking", "leave": "gone"}

func sameContent(v *event.Version, former *store.Event, content json.RawMessage) bool {
	c, err := canonicaljson.Form(content, v.StrictJSON)
	return err == nil && bytes.Equal(c, former.Content)
}

// authorise names the local user by whose right somebody joins a restricted room, if the join needs it.
func (d *draft) authorise(ctx context.Context, c *Change) error {
	rule := d.auth.JoinRule()
	if rule != "restricted" && rule != "knock_restricted" || !d.room.Version.RestrictedJoin {
		return nil
	}
	here, err := d.letIn(ctx, c.Target)
	if err != nil || here {
		return err
	}
	i := slices.IndexFunc(d.local, d.mayHost)
	if i < 0 {
		return ErrCannotGrant
	}
	c.authorised, err = json.Marshal(d.local[i])
	return err
}

// mayHost says whether a user may let others into the room: one of this server, in it, who may invite.
func (d *draft) mayHost(user id.UserID) bool {
	return d.auth.UserLevel(user) >= d.auth.Levels().Invite() && slices.Contains(d.local, user)
}

// letIn checks that a user may come into a restricted room: who is invited or joined already, which is here, or who meets
// its join rule.
func (d *draft) letIn(ctx context.Context, user id.UserID) (here bool, err error) {
	key := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)}
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{key})
	if err != nil {
		return false, err
	}
	if former := state[key]; former != nil && (former.Membership() == "invite" || former.Membership() == "join") {
		return true, nil
	}
	allowed, err := d.allowedBy(ctx, user)
	if err == nil && !allowed {
		err = fmt.Errorf("%w: to join, %s has to be invited, or in one of the rooms that the join rule names", ErrForbidden, user)
	}
	return false, err
}

// allowedBy says whether a user meets a condition of the restricted join rule: to be in one of its rooms. The error is
// ErrCannotAuthorize if the user may be in one that this server is not in.
func (d *draft) allowedBy(ctx context.Context, user id.UserID) (bool, error) {
	key := event.StateKeyTuple{Type: event.TypeJoinRules}
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{key})
	if err != nil || state[key] == nil {
		return false, err
	}
	rooms := AllowedRooms(state[key].Event)
	allowed, here := false, true
	err = d.e.Store.View(ctx, func(tx *store.Tx) (err error) {
		allowed, here, err = tx.Memberships.Admits(user, rooms)
		return err
	})
	if err == nil && !here && !allowed {
		err = ErrCannotAuthorize // what is known of those rooms is nothing, or long out of date
	}
	return allowed, err
}

// MaxAllowed is how many rooms of a restricted join rule let anybody in: the first ones.
const MaxAllowed = 100

// AllowedRooms are the rooms whose members may join under a restricted m.room.join_rules, MaxAllowed at most.
func AllowedRooms(rules *event.Event) []id.RoomID {
	var out []id.RoomID
	for condition := range canonicaljson.Elements(canonicaljson.Get(rules.Content, "allow")) {
		kind, _ := canonicaljson.String(canonicaljson.Get(condition, "type"))
		named, _ := canonicaljson.String(canonicaljson.Get(condition, "room_id"))
		room, err := id.ParseRoomID(named)
		if kind != "m.room_membership" || err != nil {
			continue
		}
		if out = append(out, room); len(out) == MaxAllowed {
			break
		}
	}
	return out
}

// Join joins a local user to a room: here if the server is in it, else through one of the servers given, or known
// from before. It returns once the join is durable.
func (e *Engine) Join(ctx context.Context, c Change) error {
	c.Membership, c.asShown = "join", true
	err := e.SetMembership(ctx, c)
	if err == nil || e.Remote == nil {
		return err
	}
	switch {
	case errors.Is(err, ErrNotFound):
	case errors.Is(err, ErrCannotAuthorize), errors.Is(err, ErrCannotGrant):
		// Others in the room may be able to.
		servers, err := e.Peers(ctx, c.Room)
		if err != nil {
			return err
		}
		c.Via = append(slices.Clone(c.Via), servers...)
	default:
		// A server that has left a room no longer knows what it would be told now.
		in, stateErr := e.inRoom(ctx, c.Room)
		if stateErr != nil || in {
			return err
		}
	}
	entered := e.enters(c.Room)
	defer entered()
	remoteErr := e.throughOne(ctx, c, e.joinThrough)
	if errors.Is(remoteErr, errNobodyToAsk) {
		return err
	}
	return remoteErr
}

// inRoom says whether any local user is joined to a room.
func (e *Engine) inRoom(ctx context.Context, roomID id.RoomID) (in bool, err error) {
	err = e.lookIn(ctx, roomID, func(d *draft) error { in = len(d.local) > 0; return nil })
	return in, err
}

// Leave takes a local user out of a room, or declines an invite or takes back a knock. A room known only from an
// invite is left through the inviting server; should that fail, it is left here alone.
func (e *Engine) Leave(ctx context.Context, c Change) error {
	c.Membership, c.Target = "leave", c.Sender
	membership, room, err := e.MembershipOf(ctx, c.Room, c.Sender)
	if err != nil {
		return err
	}
	switch membership {
	case "":
		return fmt.Errorf("%w: you are not in the room", ErrForbidden)
	case "leave":
		return nil
	}
	in, err := e.inRoom(ctx, c.Room)
	if err != nil {
		return err
	}
	if in || membership == "ban" {
		return e.SetMembership(ctx, c)
	}
	return e.leaveRemotely(ctx, c, room)
}

// Invite invites a user, through the user's server if that is another one.
func (e *Engine) Invite(ctx context.Context, c Change) error {
	c.Membership = "invite"
	if c.Target.Server() == e.Server {
		return e.SetMembership(ctx, c)
	}
	return e.inviteRemotely(ctx, c)
}

// MembershipOf is a user's membership in a room, empty if there never was one, and the room, nil if it is not known.
func (e *Engine) MembershipOf(ctx context.Context, roomID id.RoomID, user id.UserID) (string, *store.Room, error) {
	var m store.Membership
	var room *store.Room
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		if room, err = tx.Rooms.ByID(roomID); err != nil || room == nil {
			return err
		}
		m, err = tx.Memberships.Get(room.NID, user)
		return err
	})
	return m.Membership, room, err
}

// Levels tells what the rules of a room need besides members.
func (e *Engine) Levels(ctx context.Context, roomID id.RoomID) (*eventauth.Context, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.load(ctx, l); err != nil {
		return nil, err
	}
	return l.auth, nil
}

// Servers are the servers in a room, this one included.
func (e *Engine) Servers(ctx context.Context, roomID id.RoomID) ([]id.ServerName, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.load(ctx, l); err != nil {
		return nil, err
	}
	out := make([]id.ServerName, 0, len(l.servers))
	for s := range l.servers {
		out = append(out, s)
	}
	return out, nil
}

// LocalMembers are the joined users of this server. The slice must not be changed.
func (e *Engine) LocalMembers(ctx context.Context, roomID id.RoomID) ([]id.UserID, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.load(ctx, l); err != nil {
		return nil, err
	}
	return l.local, nil
}

// StateEventID is the event that sets a piece of a room's current state; empty if nothing does.
func (e *Engine) StateEventID(ctx context.Context, roomID id.RoomID, t event.StateKeyTuple) (id.EventID, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.load(ctx, l); err != nil {
		return "", err
	}
	state, err := e.lookUp(ctx, &l.face, []event.StateKeyTuple{t})
	if err != nil || state[t] == nil {
		return "", err
	}
	return state[t].ID, nil
}

// Knock asks to be let into a room: here if the server is in it, else through one of the servers given.
func (e *Engine) Knock(ctx context.Context, c Change) error {
	c.Membership, c.Target = "knock", c.Sender
	in, err := e.inRoom(ctx, c.Room)
	if err != nil {
		return err
	}
	if in || e.Remote == nil {
		return e.SetMembership(ctx, c)
	}
	defer e.enters(c.Room)() // or the answer may be here before the knock is
	if err = e.throughOne(ctx, c, e.knockThrough); errors.Is(err, errNobodyToAsk) {
		return fmt.Errorf("%w: %s", ErrNotFound, c.Room)
	}
	return err
}

func (e *Engine) knockThrough(ctx context.Context, made offered, c Change) error {
	v, server := made.version, made.server
	knock, err := event.Build(v, made.event, e.Server, e.Key)
	if err != nil {
		return err
	}
	stripped, err := e.Remote.SendKnock(ctx, server, knock.Event())
	if err != nil {
		return err
	}
	return e.keepAside(ctx, v, server, c.Sender, knock.Event(), stripped)
}
