package room

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// IncompatibleVersion says that a room has a version that the server which is to come into it does not know. It is an
// ErrUnknownVersion.
type IncompatibleVersion struct{ Version id.RoomVersion }

func (i *IncompatibleVersion) Error() string {
	return fmt.Sprintf("the room is of version %q, which the joining server does not support", i.Version)
}

// Is makes it an ErrUnknownVersion.
func (i *IncompatibleVersion) Is(target error) bool { return target == ErrUnknownVersion }

func now() int64 { return time.Now().UnixMilli() }

// MakeMembership makes the template of a "join", "leave" or "knock" for a user of another server (make_join and
// its like). versions are those that the server knows; nil where it does not say.
func (e *Engine) MakeMembership(ctx context.Context, origin id.ServerName, membership string, roomID id.RoomID, user id.UserID, versions []id.RoomVersion) (version id.RoomVersion, template json.RawMessage, err error) {
	if user.Server() != origin {
		return "", nil, fmt.Errorf("%w: %s is not a user of %s", ErrForbidden, user, origin)
	}
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return "", nil, err
	}
	v := l.room.Version
	if membership != "leave" && !slices.Contains(versions, v.ID) {
		return "", nil, &IncompatibleVersion{v.ID}
	}
	if membership == "knock" && !v.Knock {
		return "", nil, fmt.Errorf("%w: rooms of version %s know no knocking", ErrForbidden, v.ID)
	}
	c := Change{Room: roomID, Sender: user, Target: user, Membership: membership}
	var d *draft
	defer func() {
		if err == nil {
			err = d.certain(ctx) // the other server is to sign nothing that follows what is lost
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if d, err = e.draft(ctx, l); err != nil {
		return "", nil, err
	}
	if membership == "join" {
		if err := d.authorise(ctx, &c); err != nil {
			return "", nil, err
		}
	}
	content, err := c.content()
	if err != nil {
		return "", nil, err
	}
	target := string(user)
	raw, err := d.template(ctx, event.Proto{Type: event.TypeMember, StateKey: &target, Sender: user, Content: content})
	return v.ID, raw, err
}

// template is build for another server to sign.
func (d *draft) template(ctx context.Context, p event.Proto) (json.RawMessage, error) {
	v, err := d.build(ctx, p) // ours, only to see whether it would be allowed
	if err != nil {
		return nil, err
	}
	ev := v.Event()
	p.RoomID, p.PrevEvents, p.AuthEvents, p.Depth, p.OriginServerTS = ev.RoomID, ev.PrevEvents, ev.AuthEvents, ev.Depth, ev.OriginServerTS
	return d.room.Version.Template(p)
}

// hosted finds a room that this server is in.
func (e *Engine) hosted(ctx context.Context, roomID id.RoomID) (*live, error) {
	in, err := e.inRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, roomID)
	}
	return e.live(ctx, roomID)
}

// JoinAnswer describes a room to a server that has just joined it.
type JoinAnswer struct {
	Event     *event.Event // the join, with our signature if it needed one
	State     []*store.Event
	AuthChain []*store.Event  // of the join and of State
	Servers   []id.ServerName // with joined users before the join
}

// maxHeroes is how many members a room without a name is shown by (Client-Server API, "Calculating the display name for a room").
const maxHeroes = 5

// withoutMembers leaves members out of a state, except for the first few who are in the room or invited.
func withoutMembers(state []*store.Event) []*store.Event {
	slices.SortFunc(state, func(a, b *store.Event) int { return cmp.Compare(a.NID, b.NID) })
	heroes := 0
	return slices.DeleteFunc(state, func(ev *store.Event) bool {
		if ev.Type != event.TypeMember {
			return false
		}
		if m := ev.Membership(); heroes < maxHeroes && (m == "join" || m == "invite") {
			heroes++
			return false
		}
		return true
	})
}

// ReceiveJoin takes in the join of a user of another server through this one (send_join), and delivers it to the others.
// With omitMembers, the state in the answer lacks the m.room.member events of all but a few; those that authorize something
// are in the auth chain all the same, which then lacks what is in the state.
func (e *Engine) ReceiveJoin(ctx context.Context, origin id.ServerName, roomID id.RoomID, eventID id.EventID, raw json.RawMessage, omitMembers bool) (*JoinAnswer, error) {
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return nil, err
	}
	v, err := e.membershipFrom(ctx, origin, l.room, "join", eventID, raw)
	if err != nil {
		return nil, err
	}
	before, err := e.receiveMembership(ctx, origin, l, v)
	if err != nil {
		return nil, err
	}
	answer := &JoinAnswer{Event: v.Event()}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		if answer.State, err = stateOutlines(tx, before); err != nil {
			return err
		}
		servers := map[id.ServerName]bool{}
		for _, ev := range answer.State {
			if ev.Type == event.TypeMember && ev.Membership() == "join" {
				servers[id.UserID(*ev.StateKey).Server()] = true
			}
		}
		answer.Servers = slices.Sorted(maps.Keys(servers))
		if omitMembers {
			answer.State = withoutMembers(answer.State)
		}
		answer.AuthChain, err = authChain(tx, append(slices.Clone(answer.State), &store.Event{Event: v.Event()}))
		if omitMembers {
			shown := make(map[store.EventNID]bool, len(answer.State))
			for _, ev := range answer.State {
				shown[ev.NID] = true
			}
			answer.AuthChain = slices.DeleteFunc(answer.AuthChain, func(ev *store.Event) bool { return shown[ev.NID] })
		}
		return err
	})
	return answer, err
}

// authChain are outlines of everything that authorizes some events, without the events themselves unless they authorize
// each other.
func authChain(tx *store.Tx, of []*store.Event) ([]*store.Event, error) {
	seen := map[id.EventID]bool{}
	var out []*store.Event
	level := of
	for len(level) > 0 {
		var next []id.EventID
		for _, ev := range level {
			for _, a := range ev.AuthEvents {
				if !seen[a] {
					seen[a] = true
					next = append(next, a)
				}
			}
		}
		var err error
		if level, err = outlines(tx.Events.ByID, next); err != nil {
			return nil, err
		}
		out = append(out, level...)
	}
	return out, nil
}

// membershipFrom reads and verifies a membership event that a server hands in for one of its users.
func (e *Engine) membershipFrom(ctx context.Context, origin id.ServerName, room *store.Room, membership string, eventID id.EventID, raw json.RawMessage) (event.Verified, error) {
	ev, err := event.Parse(room.Version, raw)
	if err != nil {
		return event.Verified{}, err
	}
	switch {
	case ev.ID != eventID && eventID != "":
		err = fmt.Errorf("%w: the event's ID is not the one in the path", ErrBadRequest)
	case ev.RoomID != room.ID:
		err = fmt.Errorf("%w: the event is of another room", ErrBadRequest)
	case ev.Type != event.TypeMember || ev.StateKey == nil || ev.Membership() != membership:
		err = fmt.Errorf("%w: the event is no m.room.member with membership %q", ErrBadRequest, membership)
	case *ev.StateKey != string(ev.Sender):
		err = fmt.Errorf("%w: the event's state key is not its sender", ErrBadRequest)
	case ev.Sender.Server() != origin:
		err = fmt.Errorf("%w: the event's sender is not a user of %s", ErrForbidden, origin)
	}
	if err != nil {
		return event.Verified{}, err
	}
	if host := authorisedBy(ev); membership == "join" && host != "" && room.Version.RestrictedJoin {
		// It takes our signature, which the event can't have yet.
		if host.Server() != e.Server {
			return event.Verified{}, fmt.Errorf("%w: the authorising user is of another server", ErrBadRequest)
		}
		if err := e.mayVouch(ctx, room.ID, host, ev.Sender); err != nil {
			return event.Verified{}, err
		}
		if ev, err = ev.Sign(e.Server, e.Key); err != nil {
			return event.Verified{}, err
		}
	}
	result := e.Remote.Verify(ctx, "", []*event.Event{ev})[0]
	return result.Verified, result.Err
}

// mayVouch checks that a user of this server may let somebody into a restricted room, and that the join rule lets that
// one in. The other server may have asked for no template, or long ago.
func (e *Engine) mayVouch(ctx context.Context, roomID id.RoomID, host, user id.UserID) error {
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return err
	}
	return e.lookSurely(ctx, l, func(d *draft) error {
		if !d.mayHost(host) {
			return fmt.Errorf("%w: %s may not", ErrCannotGrant, host)
		}
		_, err := d.letIn(ctx, user)
		return err
	})
}

// authorisedBy is the user by whose right somebody joined a restricted room.
func authorisedBy(ev *event.Event) id.UserID {
	via, _ := canonicaljson.String(canonicaljson.Get(ev.Content, authorisedVia))
	return id.UserID(via)
}

// receiveMembership takes in a membership event handed in by another server; the state before it is returned.
func (e *Engine) receiveMembership(ctx context.Context, origin id.ServerName, l *live, v event.Verified) (store.StateMap, error) {
	done, err := l.turn(ctx, origin)
	if err != nil {
		return store.StateMap{}, err
	}
	defer done()
	ev := v.Event()
	a, err := e.lookAround(ctx, l, ev)
	if err = cmp.Or(err, a.foreign); err != nil {
		return store.StateMap{}, err
	}
	if a.known != nil && !a.known.Outlier() {
		if a.known.Rejected || a.known.SoftFailed {
			return store.StateMap{}, fmt.Errorf("%w: %s was rejected before", ErrForbidden, ev.ID)
		}
		var m store.StateMap
		err := e.Store.View(ctx, func(tx *store.Tx) error {
			m, err = tx.States.Map(a.known.StateBefore)
			return err
		})
		return m, err
	}
	if len(a.missing) > 0 && len(a.prev) == 0 {
		return store.StateMap{}, fmt.Errorf("%w: the event follows none that is known here", ErrBadRequest)
	}
	a.missing = nil
	if err := checkAuth(ev, a); err != nil {
		return store.StateMap{}, err
	}
	if _, err := e.Store.StateKey(ctx, ev.Tuple()); err != nil {
		return store.StateMap{}, err
	}
	before, err := e.stateBefore(ctx, origin, l.room, ev, a)
	if err != nil {
		return store.StateMap{}, err
	}
	return before, e.appendReceived(ctx, l, arrival{v: v, around: a, before: before, spread: true})
}

// ReceiveLeave takes in the leave of a user of another server through this one (send_leave).
func (e *Engine) ReceiveLeave(ctx context.Context, origin id.ServerName, roomID id.RoomID, eventID id.EventID, raw json.RawMessage) error {
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return err
	}
	v, err := e.membershipFrom(ctx, origin, l.room, "leave", eventID, raw)
	if err != nil {
		return err
	}
	_, err = e.receiveMembership(ctx, origin, l, v)
	return err
}

// ReceiveKnock takes in the knock of a user of another server through this one (send_knock); the stripped state of the room is returned.
func (e *Engine) ReceiveKnock(ctx context.Context, origin id.ServerName, roomID id.RoomID, eventID id.EventID, raw json.RawMessage) ([]json.RawMessage, error) {
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return nil, err
	}
	v, err := e.membershipFrom(ctx, origin, l.room, "knock", eventID, raw)
	if err != nil {
		return nil, err
	}
	if _, err := e.receiveMembership(ctx, origin, l, v); err != nil {
		return nil, err
	}
	var stripped []json.RawMessage
	err = e.lookSurely(ctx, l, func(d *draft) (err error) {
		stripped, err = d.strippedPDUs(ctx, v.Event().Sender)
		return err
	})
	if err != nil {
		return nil, err
	}
	return stripped, nil
}

// ReceiveInvite takes in the invite of a local user by another server and signs it.
func (e *Engine) ReceiveInvite(ctx context.Context, origin id.ServerName, roomID id.RoomID, eventID id.EventID, version id.RoomVersion, raw json.RawMessage, stripped []json.RawMessage) (*event.Event, error) {
	v, ok := event.VersionOf(version)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknownVersion, version)
	}
	ev, err := event.Parse(v, raw)
	if err != nil {
		return nil, err
	}
	switch {
	case ev.ID != eventID && eventID != "", ev.RoomID != roomID:
		err = fmt.Errorf("%w: the event is not the one in the path", ErrBadRequest)
	case ev.Type != event.TypeMember || ev.StateKey == nil || ev.Membership() != "invite":
		err = fmt.Errorf("%w: the event is no invite", ErrBadRequest)
	case ev.Sender.Server() != origin:
		err = fmt.Errorf("%w: the inviting user is not of %s", ErrForbidden, origin)
	default:
		err = e.checkInvited(ctx, ev)
	}
	if err != nil {
		return nil, err
	}
	user := id.UserID(*ev.StateKey)
	result := e.Remote.Verify(ctx, "", []*event.Event{ev})[0]
	if result.Err != nil {
		return nil, result.Err
	}
	signed, err := result.Verified.Sign(e.Server, e.Key)
	if err != nil {
		return nil, err
	}
	if in, err := e.inRoom(ctx, roomID); err != nil || in {
		if err == nil {
			err = e.receiveInvite(ctx, origin, signed)
		}
		return signed.Event(), err
	}
	return signed.Event(), e.keepAside(ctx, v, origin, user, signed.Event(), stripped)
}

// checkInvited checks whom an invite is for, and that there are not too many of them, before anything is done about it.
func (e *Engine) checkInvited(ctx context.Context, invite *event.Event) error {
	user, err := id.ParseUserID(*invite.StateKey)
	if err != nil || user.Server() != e.Server {
		return fmt.Errorf("%w: the invited user is not of this server", ErrBadRequest)
	}
	return e.Store.View(ctx, func(tx *store.Tx) error {
		u, ok, err := tx.Users.Get(user)
		if err == nil && (!ok || u.Deactivated) {
			err = fmt.Errorf("%w: there is no user %s", ErrForbidden, user)
		}
		if err != nil {
			return err
		}
		var known store.RoomNID
		room, err := tx.Rooms.ByID(invite.RoomID)
		if err != nil {
			return err
		}
		if room != nil {
			known = room.NID
		}
		return checkPending(tx, user, invite.Sender, known)
	})
}

// receiveInvite takes in an invite to a room that this server is in, or thinks it is in: the kick or ban before it may
// still be under way, so what is missing before it is fetched. If that fails, it comes again with the other events.
func (e *Engine) receiveInvite(ctx context.Context, origin id.ServerName, v event.Verified) error {
	ev := v.Event()
	l, err := e.live(ctx, ev.RoomID)
	if err != nil {
		return err
	}
	if l.room.Version != ev.Version {
		return fmt.Errorf("%w: the room's version is another one", ErrBadRequest)
	}
	done, err := l.turn(ctx, origin)
	if err != nil {
		return err
	}
	defer done()
	err = e.receive(ctx, origin, l, v, true)
	if err == nil {
		return e.notSoftFailed(ctx, ev.ID)
	}
	var waits *WaitsError
	if errors.Is(err, ErrForbidden) || fault(err) && !errors.As(err, &waits) {
		return err
	}
	// We vouch for nothing that is not of the room: who can't show what comes before has to be known to be in it.
	in := false
	viewErr := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		in, err = tx.Memberships.AnyOfServer(l.room.NID, origin, "join")
		return err
	})
	if viewErr != nil {
		return viewErr
	}
	if !in {
		return fmt.Errorf("%w: your server is not in the room", ErrForbidden)
	}
	e.Log.Info("an invite waits for the events before it", "room", ev.RoomID, "event", ev.ID, "err", err)
	membership, _, err := e.MembershipOf(ctx, ev.RoomID, id.UserID(*ev.StateKey))
	if err == nil && membership == "join" {
		err = fmt.Errorf("%w: the user is joined, as far as is known here", ErrForbidden)
	}
	return err
}

// notSoftFailed checks that the room's current state allowed an event that was taken in: whoever was put out can still build
// one on what was before.
func (e *Engine) notSoftFailed(ctx context.Context, eventID id.EventID) error {
	return e.Store.View(ctx, func(tx *store.Tx) error {
		ev, err := tx.Events.Get(eventID)
		if err == nil && ev != nil && ev.SoftFailed {
			err = fmt.Errorf("%w: the room's current state does not allow %s", ErrForbidden, eventID)
		}
		return err
	})
}

// keepAside keeps an invite or a knock of a local user in a room that this server is not in, and through which server it
// came or went.
func (e *Engine) keepAside(ctx context.Context, v *event.Version, via id.ServerName, user id.UserID, ev *event.Event, stripped []json.RawMessage) error {
	room, err := e.ensureRoom(ctx, ev.RoomID, v)
	if err != nil {
		return err
	}
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return err
	}
	shown := shownOf(ev, strippedForms(v, ev.Sender, stripped))
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		former, err := tx.Memberships.Get(room.NID, user)
		if err != nil {
			return err
		}
		// A ban may have been lifted since this server left the room.
		if former.Membership == "join" {
			return fmt.Errorf("%w: the user is joined", ErrForbidden)
		}
		if ev.Membership() == "knock" && former.Membership == "invite" {
			return nil // which answers the knock already
		}
		if known, err := tx.Events.Get(ev.ID); err != nil || known != nil {
			return err // it is repeated, or replayed after the user declined it
		}
		if ev.Membership() == "invite" {
			// Others may have come since it was checked first: that is exact here.
			if err := checkPending(tx, user, ev.Sender, room.NID); err != nil {
				return err
			}
		}
		if err := tx.Events.InsertAside(&store.Event{Event: ev, NID: store.EventNID(nid), Room: room.NID}); err != nil {
			return err
		}
		m := store.Membership{Room: room.NID, User: user, Membership: ev.Membership(), Event: store.EventNID(nid), Asked: shown, Via: via}
		logAside(tx, room, m, former.Membership)
		return nil
	})
}

// logAside puts a membership into the log that is no event of a history here.
func logAside(tx *store.Tx, room *store.Room, m store.Membership, former string) {
	user := []id.UserID{m.User}
	change := stream.Change{Kind: stream.Event, Room: room.ID, NID: int64(m.Event), Members: true, Moved: user, Wake: user}
	tx.Log(change, func(p stream.Position) error {
		m.Position = p
		return tx.Memberships.Set(m, former, true)
	})
}
