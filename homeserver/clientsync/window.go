package clientsync

import (
	"context"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// window is what happened in a part of the log, as far as it concerns one device.
type window struct {
	rooms       map[id.RoomID]*roomWindow // joined rooms
	moved       bool                      // the user's own memberships changed
	accountData bool
	deviceLists bool
	keyCount    bool
	listed      bool // the events in rooms are listed
}

// roomWindow is what happened in a room.
type roomWindow struct {
	events      []store.EventNID
	members     bool // somebody's membership changed
	receipts    bool
	accountData bool
}

func (w *window) room(name id.RoomID) *roomWindow {
	r := w.rooms[name]
	if r == nil {
		r = &roomWindow{}
		w.rooms[name] = r
	}
	return r
}

// look finds out what happened in since < p <= now.
func (b *builder) look() (*window, error) {
	w := &window{rooms: map[id.RoomID]*roomWindow{}}
	if b.since == b.now {
		w.listed = true
		return w, nil
	}
	changes, ok := b.e.Store.Hub.Since(b.since, b.now)
	if !ok {
		return w, b.ask(w)
	}
	w.listed = true
	for i := range changes {
		b.note(w, &changes[i])
	}
	return w, nil
}

// note enters a change into the window if it concerns the device. To-device messages are found by inbox.
func (b *builder) note(w *window, c *stream.Change) {
	mine := c.User == b.p.user
	switch c.Kind {
	case stream.Event:
		mine = slices.Contains(c.Moved, b.p.user)
		w.moved, w.deviceLists = w.moved || mine, w.deviceLists || mine
		if !b.p.joined(c.Room) {
			return
		}
		r := w.room(c.Room)
		r.events = append(r.events, store.EventNID(c.NID))
		if c.Members {
			r.members, w.deviceLists = true, true
		}
	case stream.Receipt:
		if (mine || slices.Contains(c.Wake, b.p.user)) && b.p.joined(c.Room) {
			w.room(c.Room).receipts = true
		}
	case stream.AccountData:
		switch {
		case !mine:
		case c.Room == "":
			w.accountData = true
		case b.p.joined(c.Room):
			w.accountData = true
			w.room(c.Room).accountData = true
		}
	case stream.DeviceList:
		w.deviceLists = w.deviceLists || mine || slices.Contains(c.Wake, b.p.user)
	case stream.KeyCount:
		w.keyCount = w.keyCount || mine && c.Device == b.r.Device
	}
}

// ask fills the window from the database: everything may have changed.
func (b *builder) ask(w *window) error {
	w.moved, w.accountData, w.deviceLists = true, true, true
	names := map[store.RoomNID]id.RoomID{}
	nids := make([]store.RoomNID, 0, len(b.p.rooms))
	for name, m := range b.p.rooms {
		if m.Membership == "join" {
			names[m.Room] = name
			nids = append(nids, m.Room)
		}
	}
	busy, err := b.tx.Events.RoomsSince(nids, b.since, b.now)
	if err != nil {
		return err
	}
	for _, n := range busy {
		w.room(names[n]).members = true
	}
	read, err := b.tx.Receipts.Rooms(b.p.user, b.since, b.now)
	if err != nil {
		return err
	}
	for _, n := range read {
		if name, ok := names[n]; ok {
			w.room(name).receipts = true
		}
	}
	list, err := b.tx.AccountData.Changed(b.p.user, b.since, b.now)
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.Room != "" && b.p.joined(d.Room) {
			w.room(d.Room).accountData = true
		}
	}
	return nil
}

// inboxLimit is how many to-device messages go into one answer, inboxFirst how many into a first one.
const (
	inboxLimit = 100
	inboxFirst = 20_000
)

// inbox deletes the to-device messages that have arrived and finds those to deliver. The answer must not be about
// anything behind the position returned.
func (e *Engine) inbox(tx *store.Tx, r *Request, d *device, now stream.Position) (stream.Position, error) {
	d.messages = nil
	if r.Device == "" {
		return now, nil
	}
	var since stream.Position
	limit := inboxFirst
	if r.Since != nil {
		since, limit = min(r.Since.Position, now), inboxLimit
		confirmed := since
		if r.Unconfirmed {
			confirmed = min(since, r.Confirmed)
		}
		if err := e.arrived(tx, r, d, confirmed); err != nil {
			return now, err
		}
	}
	if changes, ok := e.Store.Hub.Since(since, now); ok && !slices.ContainsFunc(changes, func(c stream.Change) bool {
		return c.Kind == stream.ToDevice && c.User == r.User && c.Device == r.Device
	}) {
		return now, nil
	}
	messages, err := tx.ToDevice.Since(r.User, r.Device, since, now, limit)
	if err != nil {
		return now, err
	}
	d.messages = messages
	if len(messages) > 0 {
		d.delivered = messages[len(messages)-1].Position
	}
	if len(messages) == limit && r.Since != nil {
		return d.delivered, nil
	}
	return now, nil
}

// arrivedAtOnce is how many messages one sync deletes; what is left is for the next ones.
const arrivedAtOnce = 500

// arrived deletes what a device has shown to have by its token. It does not wait for that.
func (e *Engine) arrived(tx *store.Tx, r *Request, d *device, since stream.Position) error {
	waiting := d.delivered != 0 && d.delivered <= since
	if !d.inboxChecked {
		var err error
		if waiting, err = tx.ToDevice.Any(r.User, r.Device, since); err != nil {
			return err
		}
		d.inboxChecked = true
	}
	if !waiting {
		return nil
	}
	d.delivered, d.inboxChecked = 0, false
	user, name := r.User, r.Device
	_, err := e.Store.Queue(context.Background(), func(tx *store.Tx) error {
		_, err := tx.ToDevice.Delete(user, name, since, arrivedAtOnce)
		return err
	})
	return err
}
