package clientsync

import (
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/visibility"
)

// visit is what an answer has to tell of one room.
type visit struct {
	roomID  id.RoomID
	room    store.RoomNID
	from    stream.Position // the timeline is of from < p <= to
	to      stream.Position
	stateTo stream.Position  // the state is as of there: to, or where the user left
	events  []store.EventNID // those in it, if they are known
	fresh   bool             // the client knows nothing of the room
	left    bool
	never   bool           // the user was not joined in that time: nothing is shown but the user's own events
	leave   store.EventNID // of a room that the user left: how
	w       *roomWindow
	sight   *visibility.Reader
	spans   *spans
	summary *summary
	counted *countedState // whose members were counted last

	toldState bool // the answer has a state section
}

// beginning is before all history, also of what was fetched afterwards.
const beginning = stream.Position(math.MinInt64)

// buildRooms tells of all rooms where something happened.
func (b *builder) buildRooms() error {
	switched, err := b.ownMoves()
	if err != nil {
		return err
	}
	if b.initial || b.r.FullState {
		if err := b.allRooms(switched); err != nil {
			return err
		}
		return b.tellAsked()
	}
	typing := map[id.RoomID][]id.UserID{}
	for _, t := range b.e.Ephemeral.TypingSince(b.volatile, b.p.joined) {
		typing[t.Room] = t.Users
		b.w.room(t.Room)
	}
	for name, w := range b.w.rooms {
		if _, moved := switched[name]; moved || !b.p.joined(name) || !b.f.Room.Allows(name) {
			continue
		}
		m := b.p.rooms[name]
		v := &visit{roomID: name, room: m.Room, from: b.since, to: b.now, stateTo: b.now, w: w}
		if b.w.listed {
			v.events = w.events
		}
		if err := b.joinedRoom(v, typing[name]); err != nil {
			return err
		}
	}
	for name, move := range switched {
		if err := b.movedRoom(name, move); err != nil {
			return err
		}
	}
	return b.tellAsked()
}

// move says how the user's membership in a room changed.
type move struct {
	before string // at since
	fresh  bool   // the user became joined, at least for a while
}

// ownMoves finds the rooms in which the user's membership changed.
func (b *builder) ownMoves() (map[id.RoomID]move, error) {
	if b.initial || !b.w.moved {
		return nil, nil
	}
	list, err := b.tx.Memberships.Changes(b.p.user, b.since, b.now)
	if err != nil {
		return nil, err
	}
	out := map[id.RoomID]move{}
	for _, c := range list {
		m, known := out[c.RoomID]
		if !known {
			m.before = c.Former
		}
		m.fresh = m.fresh || c.Membership == "join" && c.Former != "join"
		out[c.RoomID] = m
	}
	for name, m := range out {
		if m.before == "join" && !m.fresh && b.p.joined(name) {
			delete(out, name) // only the profile changed
		}
	}
	return out, nil
}

// movedRoom tells of a room in which the user's membership changed.
func (b *builder) movedRoom(name id.RoomID, how move) error {
	m, known := b.p.rooms[name]
	if !known || !b.f.Room.Allows(name) {
		return nil
	}
	switch m.Membership {
	case "join":
		return b.joinedRoom(b.freshVisit(m), b.e.Ephemeral.Typing(name))
	case "invite", "knock":
		b.asked = append(b.asked, m)
		return nil
	}
	v := &visit{roomID: name, room: m.Room, from: b.since, to: m.Position, left: true, fresh: how.fresh || how.before != "join", w: &roomWindow{}}
	if how.fresh {
		v.from = beginning
	}
	return b.leftRoom(v, m)
}

func (b *builder) freshVisit(m store.Membership) *visit {
	return &visit{roomID: m.RoomID, room: m.Room, from: beginning, to: b.now, stateTo: b.now, fresh: true, w: &roomWindow{members: true, receipts: true, accountData: true}}
}

// allRooms tells of all rooms: in the first answer, or when a client wants all state anew.
func (b *builder) allRooms(switched map[id.RoomID]move) error {
	removed, err := b.removedFrom()
	if err != nil {
		return err
	}
	var forgotten map[store.RoomNID]bool
	if b.f.Room.IncludeLeave || len(removed) > 0 {
		if forgotten, err = b.tx.Memberships.ForgottenBy(b.p.user); err != nil {
			return err
		}
	}
	for name, m := range b.p.rooms {
		if forgotten[m.Room] || !b.f.Room.Allows(name) {
			continue
		}
		how, moved := switched[name]
		switch m.Membership {
		case "join":
			v := b.freshVisit(m)
			if !b.initial && !moved {
				v.from = b.since
			}
			err = b.joinedRoom(v, b.e.Ephemeral.Typing(name))
		case "invite", "knock":
			if b.initial || moved {
				b.asked = append(b.asked, m)
			}
		default:
			if !moved && !b.f.Room.IncludeLeave && !removed[m.Event] {
				continue
			}
			v := &visit{roomID: name, room: m.Room, from: beginning, to: m.Position, left: true, fresh: true, w: &roomWindow{}}
			if moved && !how.fresh {
				v.from = b.since
			}
			err = b.leftRoom(v, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removedFrom finds, for a first answer, the members' events by which others removed the user from rooms. Who was kicked or
// banned is told even if the client has not asked for rooms that the user left: nothing else would tell.
func (b *builder) removedFrom() (map[store.EventNID]bool, error) {
	if !b.initial {
		return nil, nil
	}
	var left []store.EventNID
	for _, m := range b.p.rooms {
		if m.Membership == "leave" || m.Membership == "ban" {
			left = append(left, m.Event)
		}
	}
	out := make(map[store.EventNID]bool, len(left))
	for some := range slices.Chunk(left, stateStep) {
		list, err := b.tx.Events.ByNID(some...)
		if err != nil {
			return nil, err
		}
		for _, ev := range list {
			out[ev.NID] = ev.Sender != b.p.user
		}
	}
	return out, nil
}

// joinedRoom tells of a room that the user is joined to.
func (b *builder) joinedRoom(v *visit, typing []id.UserID) error {
	t, err := b.timeline(v)
	if err != nil {
		return err
	}
	if v.fresh && (!b.initial || b.r.Lost) && v.from == beginning {
		t.limited = true // what the client may have of the room from earlier does not join on to it
	}
	n, err := b.stateNeeded(v, t)
	if err != nil {
		return err
	}
	var s section
	if t.any() {
		s.member("timeline")
		if err := b.writeTimeline(&s, v, t); err != nil {
			return err
		}
	}
	if err := b.roomEphemeral(&s, v, typing); err != nil {
		return err
	}
	if err := b.roomAccountData(&s, v); err != nil {
		return err
	}
	if err := b.roomState(&s, v, t, n); err != nil {
		return err
	}
	if err := b.roomSummary(&s, v, t); err != nil {
		return err
	}
	if err := b.cameTo(v, t); err != nil {
		return err
	}
	if len(s.buf) == 0 && !v.w.receipts && !v.fresh {
		return nil
	}
	b.stateAfter(&s, v)
	if err := b.place(joinPart, v.roomID, s); err != nil {
		return err
	}
	return b.roomUnread(v, len(s.buf) == 0)
}

func (b *builder) place(part int, room id.RoomID, s section) error {
	into := &b.parts[part]
	into.member(string(room))
	into.buf = append(into.buf, '{')
	into.add(s)
	into.buf = append(into.buf, '}')
	return b.weighIn()
}

// leftRoom tells of a room up to where the user left it.
func (b *builder) leftRoom(v *visit, m store.Membership) error {
	if err := b.loadSpans(v); err != nil {
		return err
	}
	v.leave = m.Event
	v.never = v.spans.at(v.from) != "join" && !v.spans.joinsAfter(v.from)
	v.stateTo = v.spans.leftBy(v.to)
	t, err := b.timeline(v)
	if err != nil {
		return err
	}
	if v.never {
		t.limited = false
	}
	if m.Event != 0 && (len(t.events) == 0 || t.events[len(t.events)-1].NID != m.Event) && b.f.Room.Timeline.Count(1, 1) > 0 && b.shown < mostTimelinesSize {
		// The leave may be no part of a history here: an invite was declined.
		list, err := b.tx.Events.ByNID(m.Event)
		if err != nil {
			return err
		}
		if len(list) > 0 && list[0].Outlier() && b.passes(list[0]) {
			t.events = append(t.events, list[0])
			b.shown += len(list[0].JSON)
		}
	}
	n, err := b.stateNeeded(v, t)
	if err != nil {
		return err
	}
	var s section
	s.member("timeline")
	if err := b.writeTimeline(&s, v, t); err != nil {
		return err
	}
	if err := b.roomState(&s, v, t, n); err != nil {
		return err
	}
	b.stateAfter(&s, v)
	if err := b.roomAccountData(&s, v); err != nil {
		return err
	}
	return b.place(leavePart, v.roomID, s)
}

// cameTo notes who came to share the room with the user.
func (b *builder) cameTo(v *visit, t *timeline) error {
	if b.initial || b.e.Ephemeral.NoPresence || !v.w.members || len(b.came) >= maxNewPresences {
		return nil
	}
	if v.fresh {
		users, err := b.tx.Memberships.Users(v.room, "join")
		b.came = append(b.came, users...)
		return err
	}
	for _, ev := range t.events {
		if ev.Type == event.TypeMember && ev.StateKey != nil && ev.Membership() == "join" {
			b.came = append(b.came, id.UserID(*ev.StateKey))
		}
	}
	return nil
}

func (b *builder) roomAccountData(s *section, v *visit) error {
	if !v.w.accountData && !v.fresh {
		return nil
	}
	list := b.data
	if v.fresh && !b.initial && !b.r.FullState {
		var err error
		if list, err = b.tx.AccountData.ByRoom(b.p.user, v.roomID); err != nil {
			return err
		}
	}
	var events section
	for i := range list {
		d := &list[i]
		if d.Room == v.roomID && b.f.Room.AccountData.Allows(d.Type, b.p.user) && b.f.Room.AccountData.AllowsRoom(v.roomID) {
			events.event(d.Type, "", d.Content)
		}
	}
	if len(events.buf) > 0 || v.fresh {
		s.events("account_data", events)
	}
	return nil
}

// events adds a member {"events": [...]}.
func (s *section) events(name string, events section) {
	s.member(name)
	s.buf = append(s.buf, `{"events":[`...)
	s.add(events)
	s.buf = append(s.buf, `]}`...)
}
