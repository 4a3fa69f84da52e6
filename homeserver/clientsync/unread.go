package clientsync

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxUnread is how far unread notifications of a room are counted.
	maxUnread = 1000
	// maxUnreadScan bounds the events of a room that are looked at when counting begins anew, maxUnreadSize these in bytes.
	// Beyond what may be looked at for one answer, the newest leastUnread of a room are.
	maxUnreadScan = 1000
	maxUnreadSize = 4 << 20
	leastUnread   = 20
	main          = ephemeral.MainThread
)

// unread are the unread notifications of a user in a room, oldest first.
type unread struct {
	upto    stream.Position
	read    map[string]stream.Position // how far each thread was read; "" is all of them
	notices []notice
	pending []pending  // not yet judged
	name    id.EventID // the member event that holds the user's name
	shown   string     // that name
	stale   bool       // what was counted before counts otherwise now
	short   bool       // more would have been looked at in another answer
}

type notice struct {
	at        stream.Position
	thread    string
	highlight bool
}

// pending is an event that the user's own rules have still to be asked about.
type pending struct {
	at     stream.Position
	shared *sharedMessage
	name   string // of the user
}

const (
	// maxJudging is how many bytes of events may wait for being judged in one answer. The user's own rules are not asked
	// about those beyond it, only the predefined ones.
	maxJudging = 16 << 20
	// answerWork is what the rules of the user's own may cost in one answer.
	answerWork = 64 * pushrule.MaxWork
)

// roomFacts are what push rules ask of a room, at one of its states.
type roomFacts struct {
	members int64
	levels  *eventauth.Context
}

// roomUnread leaves a gap for the counts of a room that has just been placed; first says that the room has no other
// member.
func (b *builder) roomUnread(v *visit, first bool) error {
	u, err := b.unread(v)
	s := &b.parts[joinPart]
	s.gaps = append(s.gaps, gap{at: len(s.buf) - 1, first: first, unread: u})
	return err
}

// judge finishes the counts. Rules of users' own are asked here, when the snapshot has been given back: nobody waits for it.
func (b *builder) judge() {
	for _, g := range b.parts[joinPart].gaps {
		if g.unread == nil {
			continue
		}
		for _, e := range g.unread.pending {
			g.unread.note(e.at, e.shared, b.p.rules.Evaluate(&e.shared.message, e.name, &b.work))
		}
		g.unread.pending = nil
	}
}

// note adds a notification, unless it was read.
func (u *unread) note(at stream.Position, shared *sharedMessage, outcome pushrule.Outcome) {
	if outcome.Notify && at > u.read[shared.thread] {
		u.notices = append(u.notices, notice{at, shared.thread, outcome.Highlight})
	}
	if over := len(u.notices) - maxUnread; over > 0 {
		u.notices = slices.Delete(u.notices, 0, over)
	}
}

// write adds the counts to what is told of a room.
func (u *unread) write(s *section, byThread bool) {
	type counts struct{ all, highlights int64 }
	var whole counts
	threads := map[string]counts{}
	for _, n := range u.notices {
		c := whole
		if byThread && n.thread != main {
			c = threads[n.thread]
		}
		c.all++
		if n.highlight {
			c.highlights++
		}
		if byThread && n.thread != main {
			threads[n.thread] = c
		} else {
			whole = c
		}
	}
	write := func(c counts) {
		s.buf = strconv.AppendInt(append(s.buf, `{"highlight_count":`...), c.highlights, 10)
		s.buf = strconv.AppendInt(append(s.buf, `,"notification_count":`...), c.all, 10)
		s.buf = append(s.buf, '}')
	}
	s.member("unread_notifications")
	write(whole)
	if len(threads) == 0 {
		return
	}
	s.member("unread_thread_notifications")
	s.buf = append(s.buf, '{')
	for i, thread := range slices.Sorted(maps.Keys(threads)) {
		if i > 0 {
			s.buf = append(s.buf, ',')
		}
		s.buf = append(appendString(s.buf, thread), ':')
		write(threads[thread])
	}
	s.buf = append(s.buf, '}')
}

// unread brings the unread notifications of a room up to date.
func (b *builder) unread(v *visit) (*unread, error) {
	u := b.p.unread[v.roomID]
	if u == nil {
		return b.countAnew(v)
	}
	if u.upto >= b.now {
		return u, nil
	}
	if len(v.events) == 0 || len(v.events) > maxListed || u.upto < b.since {
		if err := b.scanUnread(v, u); err != nil {
			return nil, err
		}
		if u.short {
			delete(b.p.unread, v.roomID)
		}
	} else {
		events, err := b.tx.Events.ByNID(v.events...)
		if err != nil {
			return nil, err
		}
		if err := b.count(v, u, events); err != nil {
			return nil, err
		}
	}
	if u.stale {
		return b.countAnew(v)
	}
	return u, nil
}

// countAnew counts the unread notifications of a room from where the user has read.
func (b *builder) countAnew(v *visit) (*unread, error) {
	u := &unread{read: map[string]stream.Position{}}
	list, err := b.tx.Receipts.ByUser(v.room, b.p.user)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		u.read[r.Thread] = max(u.read[r.Thread], r.EventAt)
	}
	// Nothing of before the user came is unread.
	came, err := b.cameAt(v)
	if err != nil {
		return nil, err
	}
	u.upto = max(u.read[""], came)
	if err := b.scanUnread(v, u); err != nil {
		return nil, err
	}
	u.stale = false
	if !u.short {
		b.p.unread[v.roomID] = u
	}
	return u, nil
}

// cameAt is where the user joined the room last.
func (b *builder) cameAt(v *visit) (stream.Position, error) {
	list, err := b.tx.Memberships.History(v.room, b.p.user)
	var at stream.Position
	for _, c := range list {
		if c.Membership == "join" && c.Former != "join" && c.Position <= b.now {
			at = c.Position
		}
	}
	return at, err
}

func (b *builder) scanUnread(v *visit, u *unread) error {
	short := b.scanned+maxUnreadScan > maxScans || b.scannedSize+maxUnreadSize > maxScansSize
	limit := max(min(maxUnreadScan, maxScans-b.scanned), leastUnread)
	events, more, err := b.lookBack(v.room, u.upto, b.now, limit, maxUnreadSize)
	if err != nil {
		return err
	}
	u.short = short && more
	slices.Reverse(events)
	return b.count(v, u, events)
}

// count goes through new events in order.
func (b *builder) count(v *visit, u *unread, events []*store.Event) error {
	threads, err := b.threads(events)
	if err != nil {
		return err
	}
	for _, ev := range events {
		if ev.Position <= u.upto || ev.Position > b.now || ev.Rejected || ev.SoftFailed || ev.Withheld {
			continue
		}
		if ev.Type == event.TypeRedaction {
			if err := b.uncount(v, u, ev.Redacts); err != nil {
				return err
			}
		}
		u.upto = ev.Position
		if ev.Sender == b.p.user {
			// Who writes has read what stands above. What was redacted no longer says in which thread it was.
			if ev.StateKey == nil && ev.RedactedBy == 0 {
				u.readUpTo(threads[ev.NID], ev.Position)
			}
			continue
		}
		if err := b.countOne(v, u, ev, threads[ev.NID]); err != nil {
			return err
		}
	}
	u.upto = b.now
	return nil
}

func (u *unread) readUpTo(thread string, p stream.Position) {
	u.read[thread] = max(u.read[thread], p)
	u.notices = slices.DeleteFunc(u.notices, func(n notice) bool { return n.thread == thread && n.at <= p })
}

// uncount takes back what an event counted for that has been redacted.
func (b *builder) uncount(v *visit, u *unread, redacted id.EventID) error {
	target, err := b.tx.Events.Get(redacted)
	if err != nil || target == nil || target.RedactedBy == 0 || target.Room != v.room {
		return err
	}
	if target.Sender == b.p.user && target.Position <= u.upto {
		u.stale = true
	}
	u.notices = slices.DeleteFunc(u.notices, func(n notice) bool { return n.at == target.Position })
	u.pending = slices.DeleteFunc(u.pending, func(p pending) bool { return p.at == target.Position })
	return nil
}

// threads are those that events are in which were not redacted.
func (b *builder) threads(events []*store.Event) (map[store.EventNID]string, error) {
	var open []*store.Event
	known := make(map[store.EventNID]string, len(events))
	for _, ev := range events {
		if m, ok := b.e.messages.GetIfPresent(ev.NID); ok && m.message.Event == ev.Event {
			known[ev.NID] = m.thread
		} else if ev.RedactedBy == 0 {
			open = append(open, ev)
		}
	}
	threads, err := ephemeral.ThreadsOf(b.tx, open)
	maps.Copy(known, threads)
	return known, err
}

func (b *builder) countOne(v *visit, u *unread, ev *store.Event, thread string) error {
	if b.p.ignored[ev.Sender] || ev.RedactedBy != 0 {
		return nil
	}
	shared, err := b.shared(v, ev, thread)
	if err != nil {
		return err
	}
	name := ""
	if b.p.rules.WantsDisplayName() {
		if name, err = b.displayName(u, ev); err != nil {
			return err
		}
	}
	if b.p.rules.Searching() && b.judging < maxJudging {
		b.judging += len(ev.JSON)
		u.pending = append(u.pending, pending{ev.Position, shared, name})
		return nil
	}
	var none pushrule.Work
	u.note(ev.Position, shared, b.p.rules.Evaluate(&shared.message, name, &none))
	return nil
}

// sharedMessage is an event as the rules of all its readers see it: what they need of it is decoded once.
type sharedMessage struct {
	thread  string
	message pushrule.Message
}

// weighMessage says how many bytes a message takes when it is decoded, at most and about: a list of small members
// takes twenty times its text.
func weighMessage(_ store.EventNID, s *sharedMessage) uint32 {
	return uint32(1000 + 20*len(s.message.Content))
}

func (b *builder) shared(v *visit, ev *store.Event, thread string) (*sharedMessage, error) {
	if known, ok := b.e.messages.GetIfPresent(ev.NID); ok && known.message.Event == ev.Event {
		return known, nil
	}
	facts, err := b.facts(v, ev)
	if err != nil {
		return nil, err
	}
	out := &sharedMessage{thread: thread, message: pushrule.Message{Event: ev.Event, Members: facts.members, MayNotify: func(key string) bool {
		return facts.levels.UserLevel(ev.Sender) >= facts.levels.Levels().Notification(key)
	}}}
	b.e.messages.Set(ev.NID, out)
	return out, nil
}

// facts are those of the room at an event. How many are joined is taken from now, which is near enough.
func (b *builder) facts(v *visit, ev *store.Event) (*roomFacts, error) {
	if known, ok := b.e.rooms.GetIfPresent(ev.StateBefore); ok {
		return known, nil
	}
	summary, err := b.tx.Rooms.Summary(v.room)
	if err != nil {
		return nil, err
	}
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return nil, err
	}
	state := eventauth.Map{}
	for _, typ := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules} {
		t := event.StateKeyTuple{Type: typ}
		piece, err := b.tx.States.Event(m, t)
		if err != nil {
			return nil, err
		}
		if piece != nil {
			state[t] = piece.Event
		}
	}
	out := &roomFacts{members: summary.JoinedMembers, levels: eventauth.NewContext(state, nil)}
	b.e.rooms.Set(ev.StateBefore, out)
	return out, nil
}

// displayName is the user's name in the room at an event.
func (b *builder) displayName(u *unread, ev *store.Event) (string, error) {
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return "", err
	}
	member, err := b.tx.States.Event(m, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(b.p.user)})
	if err != nil || member == nil {
		return "", err
	}
	if member.ID != u.name {
		var content struct {
			Name string `json:"displayname"`
		}
		if json.Unmarshal(member.Content, &content) != nil {
			content.Name = ""
		}
		u.name, u.shown = member.ID, content.Name
	}
	return u.shown, nil
}
