package clientsync

import (
	"slices"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/visibility"
)

// person is what is kept of a user whose devices sync. It is used under its lock.
type person struct {
	user id.UserID
	mu   sync.Mutex

	loaded  bool
	at      stream.Position // what follows is true there
	rooms   map[id.RoomID]store.Membership
	ignored map[id.UserID]bool
	rules   *pushrule.Rules
	unread  map[id.RoomID]*unread
	// countedBy is the account data that what is unread was counted by.
	countedBy string
	devices   map[id.DeviceID]*device
}

// device is what is kept of one device.
type device struct {
	next         stream.Token                               // the token it was given last
	sent         map[id.RoomID]map[id.UserID]store.EventNID // members it has been told of, if it loads them lazily
	inboxChecked bool                                       // whether old messages of before this process have been deleted
	delivered    stream.Position                            // up to which messages were delivered and not deleted since
	messages     []store.ToDeviceMessage                    // found by inbox for the answer being made
}

// maxDevices bounds the devices that are kept of one user.
const maxDevices = 64

func newPerson(user id.UserID) *person {
	return &person{user: user, devices: map[id.DeviceID]*device{}}
}

func (e *Engine) person(user id.UserID) *person {
	if p, ok := e.people.GetIfPresent(user); ok {
		return p
	}
	p, _ := e.people.SetIfAbsent(user, newPerson(user))
	return p
}

func (p *person) device(name id.DeviceID) *device {
	d := p.devices[name]
	if d == nil {
		if len(p.devices) >= maxDevices {
			clear(p.devices)
		}
		d = &device{sent: map[id.RoomID]map[id.UserID]store.EventNID{}}
		p.devices[name] = d
	}
	return d
}

// joined says whether the user is joined to a room.
func (p *person) joined(room id.RoomID) bool { return p.rooms[room].Membership == "join" }

// advance brings what is kept of a user to a position.
func (e *Engine) advance(tx *store.Tx, p *person, now stream.Position) error {
	if p.loaded && p.at >= now {
		return nil
	}
	changes, ok := e.Store.Hub.Since(p.at, now)
	if !p.loaded || !ok {
		return e.load(tx, p, now)
	}
	for i := range changes {
		c := &changes[i]
		if c.User != p.user && !slices.Contains(c.Moved, p.user) {
			continue
		}
		var err error
		switch c.Kind {
		case stream.Event:
			err = p.loadRoom(tx, c.Room, now)
			delete(p.unread, c.Room)
		case stream.AccountData:
			if c.Room == "" {
				err = p.loadData(tx)
			}
		case stream.Receipt:
			delete(p.unread, c.Room)
		}
		if err != nil {
			p.loaded = false
			return err
		}
	}
	p.at = now
	return nil
}

func (e *Engine) load(tx *store.Tx, p *person, now stream.Position) error {
	list, err := tx.Memberships.ByUser(p.user)
	if err != nil {
		return err
	}
	p.rooms = make(map[id.RoomID]store.Membership, len(list))
	p.unread = map[id.RoomID]*unread{}
	for _, m := range list {
		if err := p.setRoom(tx, m, now); err != nil {
			return err
		}
	}
	if err := p.loadData(tx); err != nil {
		return err
	}
	p.at, p.loaded = now, true
	return nil
}

func (p *person) loadRoom(tx *store.Tx, roomID id.RoomID, now stream.Position) error {
	room, err := tx.Rooms.ByID(roomID)
	if err != nil || room == nil {
		return err
	}
	m, err := tx.Memberships.Get(room.NID, p.user)
	if err != nil {
		return err
	}
	m.RoomID = roomID
	return p.setRoom(tx, m, now)
}

// setRoom keeps a membership as it was at a position: the database may be further.
func (p *person) setRoom(tx *store.Tx, m store.Membership, now stream.Position) error {
	if m.Position <= now {
		p.rooms[m.RoomID] = m
		return nil
	}
	history, err := tx.Memberships.History(m.Room, p.user)
	if err != nil {
		return err
	}
	delete(p.rooms, m.RoomID)
	for _, c := range history {
		if c.Position <= now {
			p.rooms[m.RoomID] = store.Membership{Room: m.Room, RoomID: m.RoomID, User: p.user, Membership: c.Membership, Event: c.Event, Position: c.Position}
		}
	}
	return nil
}

// loadData reads the account data that decides what the user sees.
func (p *person) loadData(tx *store.Tx) error {
	raw, _, err := tx.AccountData.Get(p.user, "", visibility.IgnoredType)
	if err != nil {
		return err
	}
	p.ignored = visibility.Ignored(p.user, raw)
	ignored := string(raw)
	if raw, _, err = tx.AccountData.Get(p.user, "", pushrule.AccountDataType); err != nil {
		return err
	}
	if len(raw) == 0 {
		raw = nil
	}
	if by := ignored + "\x00" + string(raw); by != p.countedBy {
		clear(p.unread) // what is unread follows from what is wanted, not from what was wanted when it came
		p.countedBy = by
	}
	rules, err := pushrule.Parse(p.user, raw)
	if err != nil {
		// What a user broke is the user's: the predefined rules hold.
		rules = pushrule.Default(p.user)
	}
	p.rules = rules.Compile(p.user)
	return nil
}
