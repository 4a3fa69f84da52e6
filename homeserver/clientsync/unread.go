package clientsync

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// What is unread is looked for among the newest maxUnread events of a room, and with these no further back than to the
	// one by which maxUnreadSize bytes are reached. What is kept in memory forgets older ones too, so that it never differs
	// from what counting anew finds. Beyond what may be looked at for one answer, only the newest leastUnread of a room are.
	maxUnread     = 1000
	maxUnreadSize = 4 << 20
	leastUnread   = 20
	main          = ephemeral.MainThread
)

// unread are the unread notifications of a user in a room.
type unread struct {
	upto    stream.Position
	read    map[string]stream.Position // how far each thread was read; "" is all of them
	looked  []looked                   // the newest events of the room, oldest first, from the oldest unread notification on
	size    int                        // of these, in bytes
	pending []pending                  // not yet judged
	name    id.EventID                 // the member event that holds the user's name
	shown   string                     // that name
	cut     bool                       // older ones would be looked at if those looked at were smaller
	stale   bool                       // what was counted before counts otherwise now
	short   bool                       // more would have been looked at in another answer
}

// looked is an event that was looked at.
type looked struct {
	at                 stream.Position
	size               uint32
	unread, highlights bool
	thread             string
}

// pending is an event that the user's own rules have still to be asked about.
type pending struct {
	at     stream.Position
	thread string
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
			g.unread.note(e.at, e.thread, b.p.rules.Evaluate(&e.shared.message, e.name, &b.work))
		}
		g.unread.pending = nil
		g.unread.trim()
	}
}

// at finds an event that was looked at; nil if it was not, or no longer counts.
func (u *unread) at(p stream.Position) *looked {
	i, found := slices.BinarySearchFunc(u.looked, p, func(l looked, p stream.Position) int { return cmp.Compare(l.at, p) })
	if !found {
		return nil
	}
	return &u.looked[i]
}

// note makes an event a notification, unless it was read.
func (u *unread) note(p stream.Position, thread string, outcome pushrule.Outcome) {
	if l := u.at(p); l != nil && outcome.Notify && p > u.read[thread] {
		l.unread, l.highlights, l.thread = true, outcome.Highlight, thread
	}
}

// addLooked adds an event that is looked at, and drops those that are too far back from there.
func (b *builder) addLooked(u *unread, ev *store.Event) {
	u.looked = append(u.looked, looked{at: ev.Position, size: uint32(len(ev.JSON))})
	u.size += len(ev.JSON)
	for len(u.looked) > b.e.mostUnread || u.size-int(u.looked[0].size) >= b.e.unreadSize {
		u.cut = u.cut || len(u.looked) <= b.e.mostUnread
		u.drop(1)
	}
}

func (u *unread) drop(n int) {
	for _, l := range u.looked[:n] {
		u.size -= int(l.size)
	}
	u.looked = u.looked[n:]
}

// trim drops what is older than the oldest notification: when that is too far back follows from what came after it.
func (u *unread) trim() {
	first := stream.Position(math.MaxInt64)
	if i := slices.IndexFunc(u.looked, func(l looked) bool { return l.unread }); i >= 0 {
		first = u.looked[i].at
	}
	if len(u.pending) > 0 {
		first = min(first, u.pending[0].at)
	}
	n := slices.IndexFunc(u.looked, func(l looked) bool { return l.at >= first })
	if n < 0 {
		n = len(u.looked)
	}
	if u.drop(n); len(u.looked) == 0 {
		u.looked = nil
	}
}

// write adds the counts to what is told of a room.
func (u *unread) write(s *section, byThread bool) {
	type counts struct{ all, highlights int64 }
	var whole counts
	threads := map[string]counts{}
	for _, n := range u.looked {
		if !n.unread {
			continue
		}
		c := whole
		if byThread && n.thread != main {
			c = threads[n.thread]
		}
		c.all++
		if n.highlights {
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
	err := b.countOn(v, u)
	if err != nil || u.short {
		delete(b.p.unread, v.roomID) // it was counted in part
	}
	if err == nil && u.stale {
		return b.countAnew(v)
	}
	return u, err
}

// countOn goes on with what was counted before.
func (b *builder) countOn(v *visit, u *unread) error {
	if len(v.events) == 0 || len(v.events) > maxListed || u.upto < b.since {
		return b.scanUnread(v, u)
	}
	events, err := b.tx.Events.ByNID(v.events...)
	if err != nil {
		return err
	}
	return b.count(v, u, events)
}

// countAnew counts the unread notifications of a room from where the user has read.
func (b *builder) countAnew(v *visit) (*unread, error) {
	u := &unread{read: map[string]stream.Position{}, stale: true}
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
	short := b.scanned+b.e.mostUnread > maxScans || b.scannedSize+b.e.unreadSize > maxScansSize
	limit := min(b.e.mostUnread, max(maxScans-b.scanned, leastUnread))
	events, more, err := b.lookBack(v.room, u.upto, b.now, limit, b.e.unreadSize)
	if err != nil {
		return err
	}
	u.short = short && more
	u.cut = u.cut || more && len(events) < limit
	slices.Reverse(events)
	return b.count(v, u, events)
}

// count goes through new events in order.
func (b *builder) count(v *visit, u *unread, events []*store.Event) error {
	threads, err := b.threads(events)
	if err == nil {
		err = b.foresee(v, events)
	}
	if err != nil {
		return err
	}
	for _, ev := range events {
		if ev.Position <= u.upto || ev.Position > b.now || ev.Rejected || ev.SoftFailed {
			continue
		}
		u.upto = ev.Position
		b.addLooked(u, ev)
		if ev.Withheld {
			continue
		}
		if ev.Type == event.TypeRedaction {
			if err := b.uncount(v, u, ev.Redacts); err != nil {
				return err
			}
		}
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
	u.trim()
	return nil
}

func (u *unread) readUpTo(thread string, p stream.Position) {
	u.read[thread] = max(u.read[thread], p)
	for i := range u.looked {
		if l := &u.looked[i]; l.thread == thread && l.at <= p {
			l.unread = false
		}
	}
}

// uncount takes back what an event counted for that has been redacted, or has all be counted anew: if it told how far the
// user had read, or in which thread others are, or if it made others too far back to be looked at.
func (b *builder) uncount(v *visit, u *unread, redacted id.EventID) error {
	target, err := b.tx.Events.Get(redacted)
	if err != nil || target == nil || target.RedactedBy == 0 || target.Room != v.room {
		return err
	}
	if target.Position <= u.upto && !u.stale {
		u.stale = u.cut || target.Sender == b.p.user
		if !u.stale {
			related, err := b.tx.Relations.Children(v.room, redacted, "", "", 0, math.MaxInt64, 1, false)
			if err != nil {
				return err
			}
			u.stale = len(related) > 0
		}
	}
	if l := u.at(target.Position); l != nil {
		u.size += len(target.JSON) - int(l.size)
		l.unread, l.size = false, uint32(len(target.JSON))
	}
	u.pending = slices.DeleteFunc(u.pending, func(p pending) bool { return p.at == target.Position })
	return nil
}

// threads are those that events are in which were not redacted.
func (b *builder) threads(events []*store.Event) (map[store.EventNID]string, error) {
	open := make([]*store.Event, 0, len(events))
	for _, ev := range events {
		if ev.RedactedBy == 0 {
			open = append(open, ev)
		}
	}
	return ephemeral.ThreadsOf(b.tx, open)
}

func (b *builder) countOne(v *visit, u *unread, ev *store.Event, thread string) error {
	if b.p.ignored[ev.Sender] || ev.RedactedBy != 0 {
		return nil
	}
	if visible, err := b.visible(v, ev); err != nil || !visible {
		return err
	}
	shared, err := b.shared(v, ev)
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
		u.pending = append(u.pending, pending{ev.Position, thread, shared, name})
		return nil
	}
	var none pushrule.Work
	u.note(ev.Position, thread, b.p.rules.Evaluate(&shared.message, name, &none))
	return nil
}
