package room

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// draft is a change of a room under construction: events on top of a head, until they are queued to be
// written. It is used under the room's lock.
type draft struct {
	e    *Engine
	room *store.Room
	live *live       // nil for a new room
	base *store.Head // the stored head that it replaces; nil for a new room
	face             // the room as it will be

	additions      []*addition
	joined         []id.UserID // local users who come into the room
	closed         bool        // the room gets a tombstone
	snapshots      []newSnapshot
	summaryChanged bool
	knownOwned     bool
	ends           endChanges
	steps          int         // that behindAll took last
	ours           *visibility // who of this server's users was in the room when; nil before it is asked
	tie            *tie        // what the event that was built last ties together, where that is not all

	after  *outcome // of the last one before it that was not committed then; nil if there was none
	result *outcome // its own, once it is queued
}

// outcome is what becomes of a draft that was queued.
type outcome struct {
	done chan struct{} // closed once err is set
	err  error
}

// newSnapshot is a state that has to be written.
type newSnapshot struct {
	store.Snapshot
	parent  store.StateNID
	changes []store.StateChange
}

// addition is a new event with all that follows from it.
type addition struct {
	ev       *store.Event
	verified event.Verified
	wake     []id.UserID
	servers  []id.ServerName
	members  []memberChange
	aside    bool              // refused or an outlier: it gets no position
	sets     bool              // the current state changed with it
	uncovers bool              // it is a redaction that was withheld so far, and stays where it is
	request  *store.RequestKey // the client's request that it answers
	ours     bool              // a user of this server sends it: its relation has to make sense
	redacts  *redaction
	shown    *Profile       // of a join: the user's, as read before; nil if the content is the client's choice
	missing  []id.EventID   // predecessors that are not here
	holds    bool           // the state before it is one that was there before
	came     bool           // from another server: it may have been missed
	awaited  bool           // by redactions that came before it
	past     bool           // it belongs behind what is known of the room's history, not to its end
	resolved store.StateNID // the room's state from then on, if it may be another than the one behind the event; else 0
}

// memberChange is a change of somebody's current membership.
type memberChange struct {
	store.Membership
	former string
	local  bool
}

// draft begins a change of a room. The caller holds the room's lock.
func (e *Engine) draft(ctx context.Context, l *live) (*draft, error) {
	if !l.loaded {
		if err := e.load(ctx, l); err != nil {
			return nil, err
		}
	}
	if len(l.known) > maxKnown && len(l.queued) == 0 {
		l.forget()
	}
	head := l.head
	d := &draft{e: e, room: l.room, live: l, base: &head, face: l.face}
	if n := len(l.queued); n > 0 {
		d.after = l.queued[n-1].result
	}
	return d, nil
}

// look calls see with a draft of a room that is only looked at.
func (e *Engine) look(ctx context.Context, l *live, see func(*draft) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, err := e.draft(ctx, l)
	if err != nil {
		return err
	}
	return see(d)
}

// lookSurely is look for what another server is told, or has signed: it is not told of anything that may yet be lost.
func (e *Engine) lookSurely(ctx context.Context, l *live, see func(*draft) error) error {
	var looked *draft
	err := e.look(ctx, l, func(d *draft) error {
		looked = d
		return see(d)
	})
	if looked == nil {
		return err
	}
	return cmp.Or(looked.certain(ctx), err)
}

// lookIn is look for a room that need not be known here; then nothing is seen.
func (e *Engine) lookIn(ctx context.Context, roomID id.RoomID, see func(*draft) error) error {
	l, err := e.live(ctx, roomID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.look(ctx, l, see)
}

// build makes, signs and authorizes an event on top of the draft.
func (d *draft) build(ctx context.Context, p event.Proto) (event.Verified, error) {
	p.RoomID = d.room.ID
	if p.Type == event.TypeCreate && d.room.Version.RoomIDIsCreateHash {
		p.RoomID = ""
	}
	if p.OriginServerTS == 0 {
		p.OriginServerTS = time.Now().UnixMilli()
	}
	needed := eventauth.AuthEventsNeeded(d.room.Version, p.Type, p.StateKey, p.Sender, p.Content)
	state, err := d.e.lookUp(ctx, &d.face, needed)
	if err != nil {
		return event.Verified{}, err
	}
	p.AuthEvents = make([]id.EventID, 0, len(needed))
	for _, t := range needed {
		if a := state[t]; a != nil {
			p.AuthEvents = append(p.AuthEvents, a.ID)
		}
	}
	extremities := d.head.Extremities
	if len(extremities) > maxPrev || len(d.further) > 0 {
		if err := d.choose(ctx, p, needed, state); err != nil {
			return event.Verified{}, err
		}
		extremities = d.tie.ends
	}
	p.PrevEvents = make([]id.EventID, len(extremities))
	for i, x := range extremities {
		p.PrevEvents[i] = x.ID
		p.Depth = max(p.Depth, x.Depth)
	}
	p.Depth = min(p.Depth, d.room.Version.MaxDepth-1) + 1
	if d.room.Version.EventIDs == event.EventIDInEvent {
		if p.Hashes, err = d.hashes(ctx, state, extremities); err != nil {
			return event.Verified{}, err
		}
	}
	v, err := event.Build(d.room.Version, p, d.e.Server, d.e.Key)
	if err != nil {
		return event.Verified{}, err
	}
	if err := d.auth.Authorize(v.Event(), state); err != nil {
		return event.Verified{}, fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	if d.tie != nil {
		return v, d.tie.refused
	}
	return v, nil
}

// hashes are what events of room versions 1 and 2 say of the events that they name.
func (d *draft) hashes(ctx context.Context, state knownState, extremities []store.Extremity) (map[id.EventID]string, error) {
	out := map[id.EventID]string{}
	var ids []id.EventID
	for _, a := range state {
		if a != nil {
			out[a.ID] = a.ReferenceHash()
		}
	}
	for _, x := range extremities {
		if out[x.ID] == "" {
			ids = append(ids, x.ID)
		}
	}
	if len(ids) == 0 {
		return out, nil
	}
	err := d.view(ctx, func(tx *store.Tx) error {
		list, err := tx.Events.ByID(ids...)
		for _, ev := range list {
			out[ev.ID] = ev.ReferenceHash()
		}
		return err
	})
	return out, err
}

// add places an event of ours, which build made, at the end of the room.
func (d *draft) add(ctx context.Context, v event.Verified) (*addition, error) {
	nid, err := d.e.Store.NextNumber(ctx)
	if err != nil {
		return nil, err
	}
	ev := &store.Event{Event: v.Event(), NID: store.EventNID(nid), Room: d.room.NID, StateBefore: d.head.State}
	a := &addition{ev: ev, verified: v, wake: d.local, servers: d.others}
	d.additions = append(d.additions, a)
	if d.tie != nil {
		return a, d.addTie(ctx, a)
	}
	end := store.Extremity{NID: a.ev.NID, ID: a.ev.ID, Depth: a.ev.Depth, State: d.head.State}
	if a.ev.StateKey == nil {
		d.head.Extremities = []store.Extremity{end}
		return a, nil
	}
	key, err := d.e.Store.StateKey(ctx, a.ev.Tuple())
	if err != nil {
		return nil, err
	}
	end.Key = key
	d.head.Extremities = []store.Extremity{end}
	change := stateSet{store.StateChange{Key: key, Event: a.ev.NID}, a.ev.Tuple(), a.ev}
	return a, d.setState(ctx, a, []stateSet{change})
}

// others are the servers of a room but this one.
func (e *Engine) others(servers map[id.ServerName]int) []id.ServerName {
	var out []id.ServerName
	for s := range servers {
		if s != e.Server {
			out = append(out, s)
		}
	}
	return out
}

// stateSet sets one piece of state; ev is nil if it is removed.
type stateSet struct {
	store.StateChange
	tuple event.StateKeyTuple
	ev    *store.Event
}

// setState changes the draft's current state because of an addition, and all that is derived from it.
func (d *draft) setState(ctx context.Context, a *addition, sets []stateSet) error {
	if len(sets) == 0 {
		return nil
	}
	a.sets = true
	nid, err := d.e.Store.NextNumber(ctx)
	if err != nil {
		return err
	}
	tuples := make([]event.StateKeyTuple, len(sets))
	changes := make([]store.StateChange, len(sets))
	for i, s := range sets {
		tuples[i], changes[i] = s.tuple, s.StateChange
	}
	before, err := d.e.lookUp(ctx, &d.face, tuples)
	if err != nil {
		return err
	}
	parent := d.state.NID
	d.state = d.state.Next(store.StateNID(nid), changes)
	d.head.State = d.state.NID
	d.snapshots = append(d.snapshots, newSnapshot{d.state, parent, changes})
	d.ownKnown()
	rules := d.auth == nil
	for _, s := range sets {
		d.known[s.tuple] = s.ev
		switch s.tuple.Type {
		case event.TypeMember:
			d.setMember(a, id.UserID(s.tuple.StateKey), before[s.tuple], s.ev)
		case event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules:
			rules = true
		case typeTombstone:
			d.closed = true
		}
		if d.setSummary(s.tuple, s.ev) {
			d.summaryChanged = true
		}
	}
	if err := d.showInvited(ctx, a); err != nil {
		return err
	}
	if rules {
		return d.readRules(ctx)
	}
	return nil
}

// ownKnown makes the map of what is known of the state the draft's own, to be changed.
func (d *draft) ownKnown() {
	if d.knownOwned {
		return
	}
	d.known, d.knownOwned = maps.Clone(d.known), true
	if d.known == nil {
		d.known = map[event.StateKeyTuple]*store.Event{}
	}
}

// readRules makes anew what events are authorized by.
func (d *draft) readRules(ctx context.Context) error {
	rules := []event.StateKeyTuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}, {Type: event.TypeJoinRules}}
	state, err := d.e.lookUp(ctx, &d.face, rules)
	if err == nil {
		d.auth = eventauth.NewContext(state, nil)
	}
	return err
}

// showInvited gives local users who were invited, or knocked, the stripped state of the room.
func (d *draft) showInvited(ctx context.Context, a *addition) error {
	for i, m := range a.members {
		if !m.local || m.Membership.Membership != "invite" && m.Membership.Membership != "knock" {
			continue
		}
		key := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(m.User)}
		state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{key})
		if err != nil || state[key] == nil {
			return err
		}
		if a.members[i].Asked, err = d.stripped(ctx, state[key].Event); err != nil {
			return err
		}
	}
	return nil
}

// setMember keeps count of who is in the room.
func (d *draft) setMember(a *addition, user id.UserID, before, now *store.Event) {
	former, membership, nid := "", "leave", a.ev.NID
	if before != nil {
		former = before.Membership()
	}
	if now != nil {
		membership, nid = now.Membership(), now.NID
	}
	local := user.Server() == d.e.Server
	a.members = append(a.members, memberChange{
		store.Membership{Room: d.room.NID, User: user, Membership: membership, Event: nid}, former, local,
	})
	if local {
		a.wake = append(slices.Clip(a.wake), user)
	}
	if former == "invite" {
		d.summary.InvitedMembers--
	}
	if membership == "invite" {
		d.summary.InvitedMembers++
	}
	d.summaryChanged = true
	removed := former != "" && (membership == "leave" || membership == "ban")
	if removed && !local && a.ev.Sender.Server() == d.e.Server && !slices.Contains(a.servers, user.Server()) {
		// The user's server has to hear of it, although it may no longer be in the room, or never was.
		a.servers = append(slices.Clip(a.servers), user.Server())
	}
	if (former == "join") == (membership == "join") {
		return
	}
	d.servers = maps.Clone(d.servers)
	if d.servers == nil {
		d.servers = map[id.ServerName]int{}
	}
	if membership == "join" {
		d.summary.JoinedMembers++
		if d.servers[user.Server()]++; d.servers[user.Server()] == 1 {
			d.others = d.e.others(d.servers)
		}
		if local {
			d.local = append(slices.Clip(d.local), user)
			d.joined = append(d.joined, user)
		}
		return
	}
	d.summary.JoinedMembers--
	if d.servers[user.Server()]--; d.servers[user.Server()] <= 0 {
		delete(d.servers, user.Server())
		d.others = d.e.others(d.servers)
	}
	if i := slices.Index(d.local, user); i >= 0 {
		d.local = slices.Delete(slices.Clone(d.local), i, i+1)
	}
}

// queue hands the draft to the writer, with an update that writes it and perhaps more, and makes it the room's face;
// the function returned waits for the outcome and has to be called. The caller holds the room's lock and may release it
// at once.
func (d *draft) queue(ctx context.Context, l *live, write func(*store.Tx) error) (func() error, error) {
	d.head.Seq++
	wait, err := d.e.Store.Queue(ctx, write)
	if err != nil {
		l.loaded = false
		return nil, err
	}
	l.face, l.loaded = d.face, true
	result := &outcome{done: make(chan struct{})}
	d.result = result
	l.queued = append(l.queued, d)
	return func() error {
		result.err = wait()
		close(result.done)
		l.mu.Lock()
		l.queued = slices.DeleteFunc(l.queued, func(q *draft) bool { return q == d })
		if result.err != nil {
			// What others have built on this in the meantime fails by itself: the stored head is another.
			l.loaded = false
		}
		l.mu.Unlock()
		return result.err
	}, nil
}

// settle waits until what a draft was built on is durable. Whoever answers, or asks another server, because of what a
// draft showed and writes nothing has to call it, without the room's lock. Errors: errStale, if it was not written.
func (d *draft) settle(ctx context.Context) error {
	if d.after == nil {
		return nil
	}
	select {
	case <-d.after.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.after.err != nil {
		return fmt.Errorf("%w: %w", errStale, d.after.err)
	}
	return nil
}

// certain is settle for those who can't begin anew. Errors: ErrBusy, if it was not written.
func (d *draft) certain(ctx context.Context) error {
	err := d.settle(ctx)
	if errors.Is(err, errStale) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// change makes a change of a room: make adds events to a draft, which is then written. It is repeated while the room's
// head moves on in the meantime. make gets a fresh draft each time.
func (e *Engine) change(ctx context.Context, roomID id.RoomID, makeIt func(*draft) error) error {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return err
	}
	for range maxRetries {
		err := e.tryChange(ctx, l, makeIt)
		if !errors.Is(err, errStale) {
			return err
		}
	}
	return fmt.Errorf("%w: %s", ErrBusy, roomID)
}

func (e *Engine) tryChange(ctx context.Context, l *live, makeIt func(*draft) error) error {
	l.mu.Lock()
	d, err := e.draft(ctx, l)
	if err == nil {
		err = makeIt(d)
	}
	if err != nil || len(d.additions) == 0 {
		l.mu.Unlock()
		if d != nil {
			if unsettled := d.settle(ctx); unsettled != nil {
				return unsettled
			}
		}
		return err
	}
	var newcomers []newcomer
	if len(d.joined) > 0 {
		newcomers = d.newcomers()
	}
	wait, err := d.queue(ctx, l, d.write)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	if d.closed {
		early, err := e.early(ctx, d.room.ID)
		if err != nil {
			e.Log.Error("cannot find who is in the successor of a room", "room", d.room.ID, "err", err)
		}
		newcomers = append(newcomers, early...)
	}
	if len(newcomers) > 0 {
		e.follow(ctx, newcomers)
	}
	return nil
}

// pieces that make up the summary of a room, and the member of the content that holds each.
var summaryPieces = map[string]struct {
	member string
	field  func(*store.Summary) *string
	absent string
}{
	"m.room.name":               {"name", func(s *store.Summary) *string { return &s.Name }, ""},
	"m.room.topic":              {"topic", func(s *store.Summary) *string { return &s.Topic }, ""},
	"m.room.avatar":             {"url", func(s *store.Summary) *string { return &s.AvatarURL }, ""},
	"m.room.canonical_alias":    {"alias", func(s *store.Summary) *string { return &s.CanonicalAlias }, ""},
	"m.room.encryption":         {"algorithm", func(s *store.Summary) *string { return &s.Encryption }, ""},
	"m.room.guest_access":       {"guest_access", func(s *store.Summary) *string { return &s.GuestAccess }, "forbidden"},
	event.TypeJoinRules:         {"join_rule", func(s *store.Summary) *string { return &s.JoinRule }, "invite"},
	event.TypeHistoryVisibility: {"history_visibility", func(s *store.Summary) *string { return &s.HistoryVisibility }, "shared"},
	event.TypeCreate:            {"type", func(s *store.Summary) *string { return &s.RoomType }, ""},
}

// maxSummaryText is how many bytes of a name, a topic and the like lists of rooms show: each list reads those of all rooms.
const maxSummaryText = 2 << 10

func (f *face) setSummary(t event.StateKeyTuple, ev *store.Event) bool {
	piece, ok := summaryPieces[t.Type]
	if !ok || t.StateKey != "" {
		return false
	}
	value := piece.absent
	if ev != nil {
		var content map[string]json.RawMessage
		var text string
		if json.Unmarshal(ev.Content, &content) == nil && json.Unmarshal(content[piece.member], &text) == nil {
			value = strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), maxSummaryText)], "\x00", ""), "")
		}
	}
	field := piece.field(&f.summary)
	if *field == value {
		return false
	}
	*field = value
	return true
}
