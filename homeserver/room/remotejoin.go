package room

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxVia is how many servers are asked to let somebody in.
const maxVia = 20

// maxEnter is how long the entering of a room may take.
const maxEnter = 10 * time.Minute

// maxRemembered is how many servers are asked because they were in a room when this server last knew.
const maxRemembered = 5

// errNobodyToAsk says that no server is known that could be asked about a room.
var errNobodyToAsk = errors.New("no server is known that could be asked about the room")

// Known are the other servers that may know a room which this server is not in: the one through which the user was
// invited to it, or knocked, and those that had most users in it when this server last knew. The IDs of rooms name no
// server from version 12 on.
func (e *Engine) Known(ctx context.Context, roomID id.RoomID, user id.UserID) ([]id.ServerName, error) {
	via, err := e.viaOf(ctx, roomID, user)
	if err != nil {
		return nil, err
	}
	remembered, err := e.remembered(ctx, roomID)
	return e.helpful(via, remembered), err
}

// remembered are the servers that had most users in a room when this server last knew.
func (e *Engine) remembered(ctx context.Context, roomID id.RoomID) (servers []id.ServerName, err error) {
	err = e.lookIn(ctx, roomID, func(d *draft) error {
		servers = slices.SortedFunc(maps.Keys(d.servers), func(a, b id.ServerName) int {
			return cmp.Or(cmp.Compare(d.servers[b], d.servers[a]), cmp.Compare(a, b))
		})
		return nil
	})
	servers = slices.DeleteFunc(servers, func(s id.ServerName) bool { return s == e.Server })
	return servers[:min(len(servers), maxRemembered)], err
}

// viaOf is the server through which a user was invited to a room that this server is not in, or knocked.
func (e *Engine) viaOf(ctx context.Context, roomID id.RoomID, user id.UserID) (via id.ServerName, err error) {
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(roomID)
		if err != nil || room == nil {
			return err
		}
		m, err := tx.Memberships.Get(room.NID, user)
		if via = m.Via; err != nil || via != "" || m.Membership != "invite" {
			return err
		}
		list, err := tx.Events.ByNID(m.Event)
		if err == nil && len(list) > 0 {
			via = list[0].Sender.Server()
		}
		return err
	})
	return via, err
}

// helpers are the servers to turn to about a room that this server is not in: first the one that the user came to know
// it by, then those that were named; if there are none, those known from before. The one that made the room may have left
// it long ago, so it is asked only if no other is known.
func (e *Engine) helpers(ctx context.Context, c Change) ([]id.ServerName, error) {
	via, err := e.viaOf(ctx, c.Room, c.Sender)
	if err != nil {
		return nil, err
	}
	out := e.helpful(via, c.Via)
	if len(out) == 0 {
		if out, err = e.remembered(ctx, c.Room); err != nil {
			return nil, err
		}
	}
	if s := c.Room.Server(); len(out) == 0 && s != "" && s != e.Server {
		out = append(out, s)
	}
	return out, nil
}

// helpful are the servers, each once and without this one, that are to be asked in this order, and not more than can be.
func (e *Engine) helpful(via id.ServerName, lists ...[]id.ServerName) (out []id.ServerName) {
	for _, s := range slices.Concat(append([][]id.ServerName{{via}}, lists...)...) {
		if s != "" && s != e.Server && !slices.Contains(out, s) && len(out) < maxVia {
			out = append(out, s)
		}
	}
	return out
}

// offered is the template of a membership event that a server made.
type offered struct {
	server  id.ServerName
	version *event.Version
	event   event.Proto
}

// throughOne does something about a room with the template of one of the servers that may know it. They are asked for it in
// their order, each with a head start, so that silent ones cost seconds; what follows is done through one after another.
// Error: errNobodyToAsk.
func (e *Engine) throughOne(ctx context.Context, c Change, do func(context.Context, offered, Change) error) error {
	servers, err := e.helpers(ctx, c)
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		return errNobodyToAsk
	}
	var mu sync.Mutex
	var errs []error
	failed := map[id.ServerName]bool{}
	unhelpful := func(server id.ServerName, err error) {
		e.Log.Info("a server does not help with a membership", "room", c.Room, "membership", c.Membership, "server", server, "err", err)
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
		failed[server] = true
	}
	for len(servers) > 0 {
		var made offered
		made, err = peers.First(ctx, servers, func(asking context.Context, server id.ServerName) (offered, error) {
			made, err := e.template(asking, server, c)
			if err != nil && (asking.Err() == nil || ctx.Err() != nil) {
				unhelpful(server, err)
			}
			return made, err
		})
		if err != nil {
			break
		}
		if err = do(ctx, made, c); err == nil {
			return nil
		}
		unhelpful(made.server, err)
		servers = slices.DeleteFunc(servers, func(s id.ServerName) bool { return failed[s] })
	}
	if len(errs) == 0 { // who asks has gone
		return err
	}
	return MostTelling(errs)
}

// telling orders what several servers answered to one question: a refusal tells more than a server that does not answer,
// and one that does not answer may know the room that another has never heard of.
var telling = []error{ErrForbidden, ErrUnknownVersion, ErrCannotAuthorize, ErrCannotGrant, ErrBadAnswer, ErrBadRequest, errKeyless, ErrUnreachable, ErrNotFound}

// MostTelling picks, of what several servers answered to one question, the error to be told of; a fault of ours if there is
// one. There is one error at least.
func MostTelling(errs []error) error {
	rank := func(err error) int {
		return slices.IndexFunc(telling, func(t error) bool { return errors.Is(err, t) })
	}
	return slices.MinFunc(errs, func(a, b error) int { return cmp.Compare(rank(a), rank(b)) })
}

// enters notes that a user is about to come into a room, or to knock: from the moment at which another server has the join,
// those in the room send what happens in it, long before it is known here. The function returned says that the user is in, or not to come.
func (e *Engine) enters(roomID id.RoomID) (entered func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.entering == nil {
		e.entering = map[id.RoomID]*entering{}
	}
	all := e.entering[roomID]
	if all == nil {
		all = &entering{over: make(chan struct{})}
		e.entering[roomID] = all
	}
	all.users++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if all.users--; all.users == 0 {
			delete(e.entering, roomID)
			close(all.over)
		}
	}
}

// entering are the local users who are about to come into a room by way of other servers.
type entering struct {
	users int
	over  chan struct{} // closed once there are none
}

// anyEnters says whether users are about to come into a room.
func (e *Engine) anyEnters(roomID id.RoomID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.entering[roomID] != nil
}

// Entered is closed once no user is about to come into a room: what ErrEntering kept out may be tried again.
func (e *Engine) Entered(roomID id.RoomID) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if all := e.entering[roomID]; all != nil {
		return all.over
	}
	over := make(chan struct{})
	close(over)
	return over
}

func (e *Engine) joinThrough(ctx context.Context, made offered, c Change) (err error) {
	v, server := made.version, made.server
	join, err := event.Build(v, made.event, e.Server, e.Key)
	if err != nil {
		return fmt.Errorf("build the join: %w", err)
	}
	// Once the other server has the join, this one has to come to know of it too, whether the client still waits or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxEnter)
	defer cancel()
	ctx, release := load.WithHold(ctx, string(c.Sender))
	defer func() {
		err = load.Lost(ctx, err)
		release()
	}()
	joined, err := e.Remote.SendJoin(ctx, server, join.Event())
	if err != nil {
		return err
	}
	room, err := e.ensureRoom(ctx, c.Room, v)
	if err != nil {
		return err
	}
	if len(joined.Event) > 0 {
		// Of a restricted join, the other server's signature is part.
		checked, left := e.check(ctx, room, server, []json.RawMessage{joined.Event})
		if len(left) > 0 {
			return left[0].refusal()
		}
		if len(checked) == 1 && checked[0].Event().ID == join.Event().ID {
			join = checked[0]
		}
	}
	if err := e.enter(ctx, server, room, join, joined, &c.Profile); err != nil {
		return err
	}
	e.cameThrough(ctx, c.Room, server)
	return nil
}

// template asks for the template of a membership event and checks each of its fields that we did not choose.
func (e *Engine) template(ctx context.Context, server id.ServerName, c Change) (made offered, err error) {
	name, raw, err := e.Remote.MakeMembership(ctx, server, c.Membership, c.Room, c.Sender)
	if err != nil {
		return made, err
	}
	if name == "" {
		name = "1"
	}
	v, ok := event.VersionOf(name)
	if !ok {
		return made, &IncompatibleVersion{name}
	}
	p, err := event.ParseTemplate(v, raw)
	if err != nil {
		return made, fmt.Errorf("%w: a template: %w", ErrBadAnswer, err)
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(p.Content, &given); err != nil {
		return made, fmt.Errorf("%w: the template's content is no object", ErrBadAnswer)
	}
	if p.Type != event.TypeMember || p.StateKey == nil || *p.StateKey != string(c.Sender) || p.Sender != c.Sender || p.RoomID != c.Room ||
		string(given["membership"]) != `"`+c.Membership+`"` || p.Depth < 0 {
		return made, fmt.Errorf("%w: the template is not of the %s that was asked for", ErrBadAnswer, c.Membership)
	}
	// Of the content, only the authorising user is the other server's to say.
	if c.Membership == "join" {
		c.authorised = given[authorisedVia]
	}
	if p.Content, err = c.content(); err != nil {
		return made, err
	}
	p.OriginServerTS, p.Redacts = now(), ""
	return offered{server, v, p}, nil
}

// ensureRoom finds a room or makes one that nothing is known of yet, for a user of this server to come into.
func (e *Engine) ensureRoom(ctx context.Context, roomID id.RoomID, v *event.Version) (*store.Room, error) {
	if v.RoomIDIsCreateHash != (roomID.Server() == "") {
		return nil, fmt.Errorf("%w: %s is no room ID of version %s", ErrBadRequest, roomID, v.ID)
	}
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return nil, err
	}
	var room *store.Room
	err = e.Store.Update(ctx, func(tx *store.Tx) error {
		known, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		if room = known; room != nil {
			if err := tx.Rooms.Wanted(room.NID); err != nil || room.Version == v {
				return err
			}
			head, err := tx.Rooms.Head(room.NID)
			if err != nil || head.Seq > 0 {
				return err
			}
			// Whoever spoke of it first, in an invite perhaps, may not have told the truth.
			room = &store.Room{NID: known.NID, ID: roomID, Version: v}
			return tx.Rooms.SetVersion(room)
		}
		room = &store.Room{NID: store.RoomNID(nid), ID: roomID, Version: v}
		return tx.Rooms.Insert(room, store.Head{})
	})
	if errors.Is(err, store.ErrPurging) {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("store room %s: %w", roomID, err)
	}
	if room.Version != v {
		return nil, fmt.Errorf("%w: the room's version is %s, not %s", ErrBadRequest, room.Version.ID, v.ID)
	}
	e.mu.Lock()
	if l := e.rooms[roomID]; l != nil && l.room.Version != v {
		delete(e.rooms, roomID)
	}
	e.mu.Unlock()
	return room, nil
}

// enter takes over a room as another server describes it, with a join on top that shows a profile.
func (e *Engine) enter(ctx context.Context, server id.ServerName, room *store.Room, join event.Verified, joined *Joined, shown *Profile) error {
	parsed, ids := e.parse(room, append(slices.Clone(joined.AuthChain), joined.State...))
	ids = ids[min(len(ids), len(joined.AuthChain)):]
	joined.AuthChain, joined.State = nil, nil // it may be very much, and is held once
	described, left := e.verify(ctx, room, server, parsed)
	known, err := e.keepOutliers(ctx, room, described)
	if err != nil {
		return err
	}
	if err := e.spare(ctx, room, described, left, known); err != nil {
		return err
	}
	var stateIDs []id.EventID
	for _, i := range ids {
		if known[i] != nil {
			stateIDs = append(stateIDs, i)
		}
	}
	before, err := e.stateOf(ctx, room, stateIDs)
	if err != nil {
		return err
	}
	if err := e.checkCreate(ctx, room, before); err != nil {
		return err
	}
	ev := join.Event()
	if _, err := e.Store.StateKey(ctx, ev.Tuple()); err != nil {
		return err
	}
	l, err := e.live(ctx, room.ID)
	if err != nil {
		return err
	}
	l.placing.Lock()
	defer l.placing.Unlock()
	around, err := e.lookAround(ctx, l, ev)
	if err = cmp.Or(err, around.foreign); err != nil {
		return err
	}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		if around.known != nil && !around.known.Outlier() {
			return nil
		}
		if rejection := checkAuth(ev, around); rejection != nil {
			return rejection
		}
		return e.authorizeReceived(tx, room, around, ev, before)
	})
	if err != nil {
		return fmt.Errorf("%w: the room as described does not allow the join: %w", ErrForbidden, err)
	}
	// Where others of this server are in the room, what is known here of what the join follows is not for the other server to say.
	var told []store.StateMap
	if len(around.missing) > 0 {
		told = []store.StateMap{before}
	}
	own, err := e.stateAfterAll(ctx, room, around.prev, told)
	if err != nil {
		return err
	}
	return e.change(ctx, room.ID, func(d *draft) error {
		if around.known != nil && !around.known.Outlier() {
			return nil
		}
		if len(d.local) > 0 {
			return d.enterBeside(ctx, arrival{v: join, around: around, before: own}, shown)
		}
		return d.enter(ctx, join, around, before, shown)
	})
}

// checkCreate checks that a room as another server describes it was made with the version that the server says it has.
func (e *Engine) checkCreate(ctx context.Context, room *store.Room, m store.StateMap) error {
	return e.Store.View(ctx, func(tx *store.Tx) error {
		create, err := tx.States.Event(m, event.StateKeyTuple{Type: event.TypeCreate})
		if err != nil {
			return err
		}
		content := struct {
			Version id.RoomVersion `json:"room_version"`
		}{"1"}
		if create == nil || json.Unmarshal(create.Content, &content) != nil || content.Version != room.Version.ID {
			return fmt.Errorf("%w: the room as described is not of version %s", ErrForbidden, room.Version.ID)
		}
		return nil
	})
}

// enterBeside takes in a join of a user of this server where others of it are in the room already, as it would any event.
func (d *draft) enterBeside(ctx context.Context, a arrival, shown *Profile) error {
	refused, softFailure, err := d.judge(ctx, a)
	if err != nil {
		return err
	}
	if err := cmp.Or(refused, softFailure); err != nil {
		return fmt.Errorf("%w: the room does not allow the join: %w", ErrForbidden, err)
	}
	add, err := d.joining(ctx, a.v, a.around, shown)
	if err != nil {
		return err
	}
	if err := d.stateFor(ctx, add, a.before); err != nil {
		return err
	}
	d.additions = append(d.additions, add)
	return d.merge(ctx, add)
}

// joining is the addition of a join to a room.
func (d *draft) joining(ctx context.Context, join event.Verified, a around, shown *Profile) (*addition, error) {
	nid, err := d.e.Store.NextNumber(ctx)
	if err != nil {
		return nil, err
	}
	ev := &store.Event{Event: join.Event(), NID: store.EventNID(nid), Room: d.room.NID}
	if a.known != nil {
		ev.NID, ev.Known = a.known.NID, true
	}
	add := &addition{ev: ev, verified: join, missing: a.missing, shown: shown}
	add.keepRedacted(a.known)
	return add, nil
}

// enter replaces what a draft's room is by a state and a join on top of it.
func (d *draft) enter(ctx context.Context, join event.Verified, a around, before store.StateMap, shown *Profile) error {
	add, err := d.joining(ctx, join, a, shown)
	if err != nil {
		return err
	}
	ev := add.ev
	d.additions = append(d.additions, add)
	sets, err := d.moveTo(ctx, before)
	if err != nil {
		return err
	}
	if err := d.setState(ctx, add, sets); err != nil {
		return err
	}
	ev.StateBefore = d.head.State
	key, err := d.e.Store.StateKey(ctx, ev.Tuple())
	if err != nil {
		return err
	}
	if err := d.setState(ctx, add, []stateSet{{store.StateChange{Key: key, Event: ev.NID}, ev.Tuple(), ev}}); err != nil {
		return err
	}
	add.wake = add.moved() // nobody else here was in the room
	d.head.Extremities = []store.Extremity{{NID: ev.NID, ID: ev.ID, Depth: ev.Depth, State: ev.StateBefore, Key: key}}
	d.leaveOut(func(store.Extremity) bool { return true }, len(d.further))
	return nil
}

// leaveRemotely declines an invite or takes back a knock in a room that this server is not in.
func (e *Engine) leaveRemotely(ctx context.Context, c Change, room *store.Room) error {
	var leave *event.Event
	err := errNobodyToAsk
	if e.Remote != nil {
		err = e.throughOne(ctx, c, func(ctx context.Context, made offered, c Change) (err error) {
			leave, err = e.leaveThrough(ctx, made)
			return err
		})
	}
	if err != nil {
		e.Log.Info("an invite is declined here only", "room", c.Room, "err", err)
		if leave, err = e.leaveHere(ctx, room, c); err != nil {
			return err
		}
	}
	return e.leaveAside(ctx, room, c.Sender, leave)
}

func (e *Engine) leaveThrough(ctx context.Context, made offered) (*event.Event, error) {
	leave, err := event.Build(made.version, made.event, e.Server, e.Key)
	if err != nil {
		return nil, err
	}
	return leave.Event(), e.Remote.SendLeave(ctx, made.server, leave.Event())
}

// inviteRemotely invites a user of another server, which has to sign the invite.
func (e *Engine) inviteRemotely(ctx context.Context, c Change) error {
	if e.Remote == nil {
		return fmt.Errorf("%w: this server does not federate", ErrUnreachable)
	}
	key := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(c.Target)}
	if _, err := e.Store.StateKey(ctx, key); err != nil {
		return err
	}
	l, err := e.live(ctx, c.Room)
	if err != nil {
		return err
	}
	invite, stripped, err := e.buildInvite(ctx, l, c)
	if err != nil || invite == nil {
		return err
	}
	raw, err := e.Remote.Invite(ctx, c.Target.Server(), invite, stripped)
	if errors.Is(err, ErrUnknownVersion) {
		return fmt.Errorf("%w by the server of %s", ErrUnknownVersion, c.Target)
	}
	if err != nil {
		return fmt.Errorf("invite %s: %w", c.Target, err)
	}
	signed, left := e.check(ctx, l.room, c.Target.Server(), []json.RawMessage{raw})
	for _, v := range signed {
		if v.Event().ID == invite.ID {
			return e.receiveOwn(ctx, l, v)
		}
	}
	if len(left) > 0 {
		return left[0].refusal()
	}
	return fmt.Errorf("%w: another invite than %s was asked to sign", ErrBadAnswer, c.Target.Server())
}

// buildInvite makes an invite on top of the room without writing it; nil if the user is invited already.
func (e *Engine) buildInvite(ctx context.Context, l *live, c Change) (invite *event.Event, stripped []json.RawMessage, err error) {
	content, err := c.content()
	if err != nil {
		return nil, nil, err
	}
	var d *draft
	defer func() {
		if err == nil {
			err = d.certain(ctx) // the other server is to sign nothing that follows what is lost
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if d, err = e.draft(ctx, l); err != nil {
		return nil, nil, err
	}
	if err := d.mayFederate(ctx); err != nil {
		return nil, nil, err
	}
	target := string(c.Target)
	v, err := d.build(ctx, event.Proto{Type: event.TypeMember, StateKey: &target, Sender: c.Sender, Content: content})
	if err != nil {
		return nil, nil, err
	}
	stripped, err = d.strippedPDUs(ctx, c.Sender)
	return v.Event(), stripped, err
}

// receiveOwn takes in an event of ours that another server has signed too, and delivers it to the others.
func (e *Engine) receiveOwn(ctx context.Context, l *live, v event.Verified) error {
	a, err := e.lookAround(ctx, l, v.Event())
	if err != nil || a.known != nil && !a.known.Outlier() {
		return err
	}
	before, err := e.stateBefore(ctx, e.Server, l.room, v.Event(), a)
	if err != nil {
		return err
	}
	return e.appendReceived(ctx, l, arrival{v: v, around: a, before: before, spread: true})
}
