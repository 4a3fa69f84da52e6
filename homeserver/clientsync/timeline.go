package clientsync

import (
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	history "github.com/securecomm/securecomm/homeserver/timeline"
)

const (
	usualTimeline = 20
	maxTimeline   = 1000
	// maxListed is how many new events of a room are looked at all at once.
	maxListed = 200
	// maxScan bounds the events that are looked at for one timeline, maxScanSize these in bytes. maxScans and maxScansSize
	// bound all those of one answer together, with those that are looked at for unread counts: beyond, each timeline has one
	// page of events to choose from, and of leastScanSize.
	maxScan       = 5000
	maxScanSize   = 16 << 20
	maxScans      = 20_000
	maxScansSize  = 32 << 20
	leastScanSize = 64 << 10
	// maxTimelineSize bounds the events of one timeline in bytes, with what is told with them, maxTimelinesSize those of all in
	// one answer together. Each timeline shows one event at least, until all have mostTimelinesSize: what is not shown then
	// stands before prev_batch.
	maxTimelineSize   = 1 << 20
	maxTimelinesSize  = 8 << 20
	mostTimelinesSize = 16 << 20
)

// timeline is the part of a room's history that an answer shows, oldest first.
type timeline struct {
	events  []*store.Event
	limited bool
	prev    stream.Position // where older history ends
	hid     bool            // events were left out that may have changed the state
	named   bool            // what the room is called may have changed
}

// any says whether there is something to tell.
func (t *timeline) any() bool { return len(t.events) > 0 || t.limited }

// timeline chooses what to show of a room: the newest events that the user may see and that pass the filter.
func (b *builder) timeline(v *visit) (*timeline, error) {
	f := &b.f.Room.Timeline
	t := &timeline{prev: v.to}
	if !f.AllowsRoom(v.roomID) {
		t.hid = true
		return t, nil
	}
	if v.fresh || v.left {
		if err := b.loadSpans(v); err != nil {
			return nil, err
		}
	}
	limit := f.Count(usualTimeline, maxTimeline)
	p := picker{b: b, v: v, t: t, limit: limit, size: min(maxTimelineSize, maxTimelinesSize-b.shown), unfiltered: f.Unrestricted() && len(b.p.ignored) == 0}
	if len(v.events) <= maxListed && (v.events != nil || b.w.listed && !v.fresh && !v.left) {
		list, err := b.tx.Events.ByNID(v.events...)
		if err == nil {
			err = b.foresee(v, list)
		}
		if err != nil {
			return nil, err
		}
		for _, ev := range slices.Backward(list) {
			if ev.Position <= v.from || ev.Position > v.to || ev.Rejected || ev.SoftFailed {
				continue
			}
			if more, err := p.take(ev); err != nil || !more {
				return t, p.end(err)
			}
		}
		return t, p.end(nil)
	}
	return t, p.end(p.scan())
}

// picker takes events from the newest backwards.
type picker struct {
	b          *builder
	v          *visit
	t          *timeline
	limit      int
	size       int // that may still be shown, in bytes
	unfiltered bool
	senders    map[id.UserID]bool // who was told of with the events, to who loads members lazily
}

func (p *picker) scan() error {
	page := min(max(p.limit+1, 10), 200)
	upto := p.v.to
	for scanned, size := 0, 0; ; {
		list, more, err := p.b.lookBack(p.v.room, p.v.from, upto, page, maxScanSize)
		if err == nil {
			err = p.b.foresee(p.v, list)
		}
		if err != nil {
			return err
		}
		for _, ev := range list {
			size += len(ev.JSON)
			if more, err := p.take(ev); err != nil || !more {
				return err
			}
		}
		if !more {
			return nil
		}
		scanned += len(list)
		if scanned >= maxScan || size >= maxScanSize || p.b.scanned >= maxScans || p.b.scannedSize >= maxScansSize {
			break
		}
		upto = list[len(list)-1].Position - 1
	}
	p.t.limited = true
	return nil
}

// lookBack reads the newest events of from < p <= upto, at most so many and so many bytes as far as the answer has them left.
// Withheld ones, which are not to be shown, are among them.
func (b *builder) lookBack(room store.RoomNID, from, upto stream.Position, limit, size int) ([]*store.Event, bool, error) {
	list, more, err := b.tx.Events.RangeOfStateWithin(room, from, upto, limit, min(size, max(maxScansSize-b.scannedSize, leastScanSize)))
	b.scanned += len(list)
	for _, ev := range list {
		b.scannedSize += len(ev.JSON)
	}
	return list, more, err
}

// take adds an event if it is to be shown; false if no older ones are.
func (p *picker) take(ev *store.Event) (bool, error) {
	if ev.Withheld {
		p.t.hid = true // the state may have changed with it
		return true, nil
	}
	p.t.named = p.t.named || names(ev)
	if visible, err := p.b.visible(p.v, ev); err != nil || !visible {
		p.t.hid = p.t.hid || p.b.ties(ev)
		return true, err
	}
	ev, err := p.b.unlessErased(p.v, ev)
	if err != nil {
		return false, err
	}
	if !p.unfiltered && !p.b.passes(ev) {
		p.t.hid = p.t.hid || ev.StateKey != nil || p.b.ties(ev)
		return true, nil
	}
	if len(p.t.events) >= p.limit {
		p.t.limited = true
		return false, nil
	}
	weight, err := p.weigh(ev)
	if err != nil {
		return false, err
	}
	if p.size -= weight; p.size < 0 && (len(p.t.events) > 0 || p.b.shown >= mostTimelinesSize) {
		p.t.limited = true
		return false, nil
	}
	p.b.shown += weight
	p.t.events = append(p.t.events, ev)
	gap, err := p.b.gapBefore(ev)
	if err != nil || gap {
		p.t.limited = true
		return false, err
	}
	return true, nil
}

// weigh is how many bytes an event adds to the answer, with what redacted it, what it replaced, and who sent it.
func (p *picker) weigh(ev *store.Event) (int, error) {
	size := len(ev.JSON)
	redaction, err := p.b.redaction(ev)
	if err != nil {
		return 0, err
	}
	if redaction != nil {
		size += len(redaction.JSON)
	}
	if ev.StateKey != nil {
		replaced, err := p.b.replaced(ev)
		if err != nil {
			return 0, err
		}
		if replaced != nil {
			size += len(replaced.JSON)
		}
	}
	sender, err := p.weighSender(ev.Sender)
	return size + sender, err
}

// weighSender is how many bytes the member event of a sender adds, once, for who loads members lazily and lacks it.
func (p *picker) weighSender(user id.UserID) (int, error) {
	if _, known := p.b.device.sent[p.v.roomID][user]; p.v.never || p.senders[user] || !p.b.lazy() || known && !p.b.redundant(p.v) {
		return 0, nil
	}
	if p.senders == nil {
		p.senders = map[id.UserID]bool{}
	}
	p.senders[user] = true
	state, err := p.b.stateAt(p.v.room, p.v.stateTo)
	if err != nil {
		return 0, err
	}
	member, err := p.b.tx.States.Event(state, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
	if err != nil || member == nil {
		return 0, err
	}
	redaction, err := p.b.redaction(member)
	if err != nil || redaction == nil {
		return len(member.JSON), err
	}
	return len(member.JSON) + len(redaction.JSON), nil
}

func (p *picker) end(err error) error {
	slices.Reverse(p.t.events)
	if len(p.t.events) > 0 {
		p.t.prev = p.t.events[0].Position - 1
	}
	return err
}

// passes says whether the timeline's filter lets an event through.
func (b *builder) passes(ev *store.Event) bool {
	f := &b.f.Room.Timeline
	if ev.StateKey == nil && b.p.ignored[ev.Sender] {
		return false
	}
	return f.Allows(ev.Type, ev.Sender) && f.AllowsContent(ev.Content)
}

// gapBefore says whether an event of another server follows something that is missing here, or was fetched only later.
func (b *builder) gapBefore(ev *store.Event) (bool, error) {
	if ev.Sender.Server() == b.e.Server || ev.Position < 0 || ev.Type == event.TypeCreate {
		return false, nil
	}
	places, err := b.tx.Events.Places(ev.PrevEvents...)
	return slices.ContainsFunc(ev.PrevEvents, func(prev id.EventID) bool {
		place, known := places[prev]
		return !known || place.Outlier() || place.Position < 0
	}), err
}

func (b *builder) writeTimeline(s *section, v *visit, t *timeline) error {
	s.buf = append(s.buf, `{"events":[`...)
	txns, err := b.ownRequests(t.events)
	if err != nil {
		return err
	}
	// A client that missed nothing has seen what relates to the events, and puts it together itself.
	var bundles map[id.EventID]json.RawMessage
	if t.limited {
		reader := history.Reader{User: b.p.user, Device: b.r.Device}
		if bundles, err = history.Bundle(b.tx, v.roomID, v.room, reader, &b.bundles, t.events); err != nil {
			return err
		}
	}
	for i, ev := range t.events {
		if i > 0 {
			s.buf = append(s.buf, ',')
		}
		if s.buf, err = b.appendTimelineEvent(s.buf, v, ev, txns, bundles[ev.ID]); err != nil {
			return err
		}
	}
	s.buf = append(s.buf, `],"limited":`...)
	if t.limited {
		s.buf = append(s.buf, `true,"prev_batch":"`...)
	} else {
		s.buf = append(s.buf, `false,"prev_batch":"`...)
	}
	s.buf = append(append(s.buf, b.tx.Token(t.prev)...), `"}`...)
	return nil
}

// ownRequests finds the transaction IDs that the device gave with its own events. Recent ones are in memory.
func (b *builder) ownRequests(events []*store.Event) (map[id.EventID]string, error) {
	var old []id.EventID
	var out map[id.EventID]string
	for _, ev := range events {
		if ev.Sender != b.p.user {
			continue
		}
		k, ok := b.tx.Requests.Recent(ev.ID)
		switch {
		case ok && k.User == b.p.user && k.Device == b.r.Device:
			if out == nil {
				out = map[id.EventID]string{}
			}
			out[ev.ID] = k.TxnID
			if k.Answered != nil {
				b.unanswered = append(b.unanswered, k.Answered)
			}
		case !ok && !b.w.listed:
			old = append(old, ev.ID)
		}
	}
	if len(old) == 0 {
		return out, nil
	}
	found, err := b.tx.Requests.TxnIDs(b.p.user, b.r.Device, old)
	for k, v := range out {
		found[k] = v
	}
	return found, err
}
