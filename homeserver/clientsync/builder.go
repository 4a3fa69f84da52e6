package clientsync

import (
	"encoding/json"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	history "github.com/securecomm/securecomm/homeserver/timeline"
)

// builder makes one answer.
type builder struct {
	e        *Engine
	tx       *store.Tx
	p        *person
	r        *Request
	f        *filter.Filter
	device   *device
	initial  bool
	since    stream.Position
	volatile int64
	now      stream.Position
	next     stream.Token

	w     *window
	data  []store.AccountDatum
	came  []id.UserID // who came to share a room with the user
	owed  map[store.RoomNID][]event.StateKeyTuple
	any   bool // there is something to tell
	shown int  // bytes of events in timelines
	// events that were looked at for timelines, and their bytes
	scanned, scannedSize int
	erased               history.Erased
	bundles              history.Budget
	parts                [sections]section
	keys                 []byte // how many keys the device has left
	toldSize             int    // bytes of state that was read for the answer
	named                int    // receipts, and who types
	charge               *load.Charge
	later                []gap              // in the answer as it was put together
	asked                []store.Membership // invites and knocks to tell
	// What the user's own rules may still cost, and how many bytes wait for them.
	work    pushrule.Work
	judging int

	unanswered []<-chan struct{}
}

// The parts of an answer.
const (
	joinPart = iota
	invitePart
	knockPart
	leavePart
	dataPart
	presencePart
	devicePart
	listsPart
	sections
)

// section is a part of an answer: members of an object, or events, with gaps.
type section struct {
	buf  []byte
	gaps []gap
}

// gap is where something is missing in a section: counts until the answer is put together, or state until it goes out.
type gap struct {
	at     int
	first  bool // no other member stands before
	unread *unread
	state  *restOfState
}

// empty says that nothing stands in a section, nor will.
func (s *section) empty() bool { return len(s.buf)+len(s.gaps) == 0 }

// add adds another section.
func (s *section) add(other section) {
	for _, g := range other.gaps {
		g.at += len(s.buf)
		s.gaps = append(s.gaps, g)
	}
	s.buf = append(s.buf, other.buf...)
}

// next makes room for one more entry.
func (s *section) next() {
	if len(s.buf) > 0 {
		s.buf = append(s.buf, ',')
	}
}

func (s *section) member(name string) {
	s.next()
	s.buf = append(appendString(s.buf, name), ':')
}

func (b *builder) build() error {
	w, err := b.look()
	if err != nil {
		return err
	}
	b.w = w
	if err := b.findOwed(); err != nil {
		return err
	}
	if err := b.accountData(); err != nil {
		return err
	}
	if err := b.buildRooms(); err != nil {
		return err
	}
	if err := b.presence(); err != nil {
		return err
	}
	if err := b.deviceLists(); err != nil {
		return err
	}
	for _, m := range b.device.messages {
		s := &b.parts[devicePart]
		s.next()
		s.buf = append(s.buf, m.JSON...)
	}
	b.keys = b.appendKeyCounts(nil)
	b.any = b.any || b.initial || w.keyCount
	for i := range b.parts {
		b.any = b.any || len(b.parts[i].buf) > 0
	}
	return b.weighIn()
}

// finish puts the answer together.
func (b *builder) finish() []byte {
	size := 256 + len(b.keys)
	for i := range b.parts {
		size += len(b.parts[i].buf) + 128*len(b.parts[i].gaps)
	}
	out := append(make([]byte, 0, size), '{')
	for _, part := range []struct {
		name string
		n    int
	}{{"account_data", dataPart}, {"presence", presencePart}, {"to_device", devicePart}} {
		if s := b.parts[part.n].buf; len(s) > 0 {
			out = append(append(appendString(out, part.name), `:{"events":[`...), s...)
			out = append(out, `]},`...)
		}
	}
	if s := b.parts[listsPart].buf; len(s) > 0 {
		out = append(append(append(out, `"device_lists":{`...), s...), `},`...)
	}
	out = b.appendRooms(out)
	out = append(out, b.keys...)
	out = append(out, `"next_batch":"`...)
	out = append(out, b.next.String()...)
	return append(out, `"}`...)
}

func (b *builder) appendRooms(out []byte) []byte {
	begun := false
	for _, part := range []struct {
		name string
		n    int
	}{{"join", joinPart}, {"invite", invitePart}, {"knock", knockPart}, {"leave", leavePart}} {
		s := &b.parts[part.n]
		if s.empty() {
			continue
		}
		if begun {
			out = append(out, ',')
		} else {
			out, begun = append(out, `"rooms":{`...), true
		}
		out = append(b.fill(append(appendString(out, part.name), `:{`...), s), '}')
	}
	if begun {
		out = append(out, `},`...)
	}
	return out
}

// fill adds a section with its counts. State that is yet missing is noted with its place.
func (b *builder) fill(out []byte, s *section) []byte {
	from := 0
	for _, g := range s.gaps {
		out = append(out, s.buf[from:g.at]...)
		if from = g.at; g.state != nil {
			g.at = len(out)
			b.later = append(b.later, g)
			continue
		}
		if !g.first {
			out = append(out, ',')
		}
		var counts section
		g.unread.write(&counts, b.f.Room.Timeline.UnreadThreadNotifications)
		out = append(out, counts.buf...)
	}
	return append(out, s.buf[from:]...)
}

// appendKeyCounts is in every answer.
func (b *builder) appendKeyCounts(out []byte) []byte {
	counts, err := b.tx.OneTimeKeys.Counts(b.p.user, b.r.Device)
	if err != nil {
		b.e.Log.Warn("cannot count one-time keys", "err", err)
		return out
	}
	out = append(out, `"device_one_time_keys_count":{`...)
	// Clients take an algorithm that is missing for one they need not upload keys for.
	if _, ok := counts.OneTime["signed_curve25519"]; !ok {
		out = append(out, `"signed_curve25519":0,`...)
	}
	for algorithm, n := range counts.OneTime {
		out = append(strconv.AppendInt(append(appendString(out, algorithm), ':'), int64(n), 10), ',')
	}
	out = append(out[:len(out)-1], `},"device_unused_fallback_key_types":[`...)
	for i, algorithm := range counts.UnusedFallback {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, algorithm)
	}
	return append(out, `],`...)
}

// accountData tells of the user's global account data and reads that of rooms.
func (b *builder) accountData() (err error) {
	switch {
	case b.initial || b.r.FullState:
		b.data, err = b.tx.AccountData.Changed(b.p.user, 0, b.now)
	case b.w.accountData:
		b.data, err = b.tx.AccountData.Changed(b.p.user, b.since, b.now)
	}
	if err != nil {
		return err
	}
	rules := false
	for i := range b.data {
		d := &b.data[i]
		rules = rules || d.Room == "" && d.Type == pushrule.AccountDataType
		if d.Room == "" && b.f.AccountData.Allows(d.Type, b.p.user) {
			b.parts[dataPart].event(d.Type, "", d.Content)
		}
	}
	if !rules && (b.initial || b.r.FullState) && b.f.AccountData.Allows(pushrule.AccountDataType, b.p.user) {
		// The predefined rules hold without having been stored.
		content, err := pushrule.Default(b.p.user).JSON()
		if err != nil {
			return err
		}
		b.parts[dataPart].event(pushrule.AccountDataType, "", content)
	}
	return nil
}

// event adds an event that is in no room's history.
func (s *section) event(typ string, sender id.UserID, content json.RawMessage) {
	s.next()
	s.buf = append(append(s.buf, `{"content":`...), content...)
	if sender != "" {
		s.buf = appendString(append(s.buf, `,"sender":`...), string(sender))
	}
	s.buf = append(appendString(append(s.buf, `,"type":`...), typ), '}')
}

// maxNewPresences bounds the users of newly joined rooms whose presence is told.
const maxNewPresences = 1000

// presence tells of those who share a room with the user.
func (b *builder) presence() error {
	if b.e.Ephemeral.NoPresence || !b.f.Presence.Allows("m.presence", b.p.user) && len(b.f.Presence.NotTypes) > 0 {
		return nil
	}
	volatile := b.volatile
	if b.initial || b.r.FullState {
		volatile = 0
	}
	list := b.e.Ephemeral.PresenceSince(volatile)
	told := make(map[id.UserID]bool, len(list))
	if len(list) > 0 {
		sharing, err := b.sharing(len(list))
		if err != nil {
			return err
		}
		for i := range list {
			user := list[i].User
			ok, err := sharing(user)
			if err != nil {
				return err
			}
			if ok && !b.p.ignored[user] && b.f.Presence.Allows("m.presence", user) {
				told[user] = true
				if err := b.parts[presencePart].presence(list[i].User, list[i].Content()); err != nil {
					return err
				}
			}
		}
	}
	for _, user := range b.came[:min(len(b.came), maxNewPresences)] {
		status, known := b.e.Ephemeral.Presence(user)
		if !known || told[user] || b.p.ignored[user] || !b.f.Presence.Allows("m.presence", user) {
			continue
		}
		told[user] = true
		if err := b.parts[presencePart].presence(user, status.Content()); err != nil {
			return err
		}
	}
	return nil
}

func (s *section) presence(user id.UserID, content map[string]any) error {
	raw, err := json.Marshal(content)
	if err == nil {
		s.event("m.presence", user, raw)
	}
	return err
}

// sharing tells whether users share a room with the user; it will be asked about so many.
func (b *builder) sharing(count int) (func(id.UserID) (bool, error), error) {
	const few = 4
	if count <= few {
		return func(u id.UserID) (bool, error) {
			if u == b.p.user {
				return true, nil
			}
			return b.tx.Memberships.ShareRoom(b.p.user, u)
		}, nil
	}
	list, err := b.tx.Memberships.Sharing(b.p.user)
	set := make(map[id.UserID]bool, len(list))
	for _, u := range list {
		set[u] = true
	}
	set[b.p.user] = true
	return func(u id.UserID) (bool, error) { return set[u], nil }, err
}

// deviceLists tells whose devices changed (Client-Server API, "Tracking the device list for a user").
func (b *builder) deviceLists() error {
	if b.e.Keys == nil || !b.r.Lost && (b.initial || !b.w.deviceLists) {
		return nil
	}
	changes, err := b.e.Keys.ChangesIn(b.tx, b.p.user, b.since, b.now)
	if err != nil || len(changes.Changed)+len(changes.Left) == 0 {
		return err
	}
	s := &b.parts[listsPart]
	s.member("changed")
	s.buf = appendUsers(s.buf, changes.Changed)
	s.member("left")
	s.buf = appendUsers(s.buf, changes.Left)
	return nil
}

func appendUsers(out []byte, users []id.UserID) []byte {
	out = append(out, '[')
	for i, u := range users {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, string(u))
	}
	return append(out, ']')
}
