package keys_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	alice = id.UserID("@alice:here")
	bob   = id.UserID("@bob:here")
	carol = id.UserID("@carol:there")
	here  = id.ServerName("here")
	there = id.ServerName("there")
)

// fixture is a server with alice and bob, who have a device each; carol is on another server.
type fixture struct {
	*testing.T
	*keys.Service
	remote *fakeRemote
}

func each(t *testing.T, test func(f *fixture)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		remote := &fakeRemote{}
		f := &fixture{t, &keys.Service{Store: db, Server: here, Remote: remote}, remote}
		f.update(func(tx *store.Tx) error {
			for _, u := range []id.UserID{alice, bob} {
				if _, err := tx.Users.Insert(store.User{ID: u}); err != nil {
					return err
				}
			}
			return nil
		})
		f.addDevice(alice, "A")
		f.addDevice(bob, "B")
		test(f)
	})
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wants(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("got %v, want %v", err, want)
	}
}

func (f *fixture) update(fn func(tx *store.Tx) error) {
	f.Helper()
	f.must(f.Store.Update(f.Context(), fn))
}

func (f *fixture) view(fn func(tx *store.Tx) error) {
	f.Helper()
	f.must(f.Store.View(f.Context(), fn))
}

func (f *fixture) addDevice(user id.UserID, device id.DeviceID) {
	f.Helper()
	f.update(func(tx *store.Tx) error {
		_, err := tx.Devices.Insert(store.Device{User: user, ID: device, DisplayName: "name of " + string(device)})
		return err
	})
}

// deleteDevice does what the account package does.
func (f *fixture) deleteDevice(user id.UserID, device id.DeviceID) {
	f.Helper()
	f.changeDevices(user, nil, func(tx *store.Tx) error {
		_, err := tx.Devices.Delete(user, device)
		return err
	}, device)
}

// changeDevices does what the account package does when it changes devices.
func (f *fixture) changeDevices(user id.UserID, named []id.DeviceID, change func(tx *store.Tx) error, deleted ...id.DeviceID) {
	f.Helper()
	tell, err := f.DevicesChanging(f.Context(), user)
	f.must(err)
	f.update(func(tx *store.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		return tell(tx, named, deleted)
	})
}

var rooms = map[id.RoomID]store.RoomNID{"!a": 1, "!b": 2}

func (f *fixture) makeRooms() {
	f.Helper()
	version, _ := event.VersionOf("12")
	f.update(func(tx *store.Tx) error {
		for room, nid := range rooms {
			if err := tx.Rooms.Insert(&store.Room{NID: nid, ID: room, Version: version}, store.Head{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// member does what the room engine does with memberships.
func (f *fixture) member(room id.RoomID, membership string, users ...id.UserID) {
	f.Helper()
	for _, u := range users {
		f.update(func(tx *store.Tx) error {
			m, err := tx.Memberships.Get(rooms[room], u)
			if err != nil {
				return err
			}
			former := m.Membership
			tx.Log(stream.Change{Kind: stream.Event}, func(p stream.Position) error {
				m.Membership, m.Position = membership, p
				return tx.Memberships.Set(m, former, u.Server() == here)
			})
			return nil
		})
	}
}

func (f *fixture) position() (p stream.Position) {
	f.Helper()
	f.view(func(tx *store.Tx) (err error) {
		p, err = tx.Position()
		return err
	})
	return p
}

// upload publishes identity keys; tag makes them differ.
func (f *fixture) upload(user id.UserID, device id.DeviceID, tag string) {
	f.Helper()
	_, err := f.Upload(f.Context(), user, device, keys.Upload{DeviceKeys: identity(user, device, tag)})
	f.must(err)
}

func identity(user id.UserID, device id.DeviceID, tag string) json.RawMessage {
	return encode(map[string]any{
		"user_id": user, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"curve25519:" + string(device): tag}, "signatures": map[string]any{},
	})
}

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// tagOf finds the tag of the identity keys that a query returns; empty if it returns none.
func (f *fixture) tagOf(asking, user id.UserID, device id.DeviceID) string {
	f.Helper()
	found, failures, err := f.Query(f.Context(), asking, map[id.UserID][]id.DeviceID{user: nil}, 0)
	f.must(err)
	if len(failures) > 0 {
		f.Fatal(failures)
	}
	var k struct {
		Keys map[string]string `json:"keys"`
	}
	if raw := found.DeviceKeys[user][device]; raw != nil {
		f.must(json.Unmarshal(raw, &k))
	}
	return k.Keys["curve25519:"+string(device)]
}

// changes are the changes that a user hears of behind a position.
func (f *fixture) changes(user id.UserID, from stream.Position) (changed, left []id.UserID) {
	f.Helper()
	c, err := f.Changes(f.Context(), user, from, f.position())
	f.must(err)
	return c.Changed, c.Left
}

func (f *fixture) wantChanges(what string, user id.UserID, from stream.Position, changed, left []id.UserID) {
	f.Helper()
	gotChanged, gotLeft := f.changes(user, from)
	if !slices.Equal(gotChanged, changed) || !slices.Equal(gotLeft, left) {
		f.Errorf("%s: %s hears of changed %v and left %v, want %v and %v", what, user, gotChanged, gotLeft, changed, left)
	}
}

// edu is what waits for the other server.
type edu struct {
	Type    string         `json:"edu_type"`
	Content map[string]any `json:"content"`
}

// sent takes the EDUs that wait for the other server.
func (f *fixture) sent() (out []edu) {
	f.Helper()
	f.update(func(tx *store.Tx) error {
		out = nil
		waiting, _, err := tx.Outbox.Next(there, 0, 100, 1<<20)
		if err != nil || len(waiting) == 0 {
			return err
		}
		for _, w := range waiting {
			var e edu
			if err := json.Unmarshal(w.EDU, &e); err != nil {
				return err
			}
			out = append(out, e)
		}
		return tx.Outbox.Delete(there, waiting[len(waiting)-1].Position)
	})
	return out
}

// inbox lists the contents that wait for a device.
func (f *fixture) inbox(user id.UserID, device id.DeviceID) (out []string) {
	f.Helper()
	f.view(func(tx *store.Tx) error {
		messages, err := tx.ToDevice.Since(user, device, 0, f.position(), 100)
		for _, m := range messages {
			out = append(out, string(m.JSON))
		}
		return err
	})
	return out
}

var errDown = errors.New("the server is down")

// fakeRemote is the other server: carol and her devices. The calls it got are counted.
type fakeRemote struct {
	mu      sync.Mutex
	down    bool
	list    keys.UserDevices
	claimed keys.Claimed
	calls   []string
	during  func() // happens while a request is under way
}

func (r *fakeRemote) call(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, name)
	if r.down {
		return errDown
	}
	if r.during != nil {
		r.during()
	}
	return nil
}

func (r *fakeRemote) QueryKeys(_ context.Context, _ id.ServerName, users map[id.UserID][]id.DeviceID) (*keys.Published, error) {
	out := &keys.Published{DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}}
	for _, u := range slices.Sorted(maps.Keys(users)) {
		out.DeviceKeys[u] = map[id.DeviceID]json.RawMessage{}
		for _, d := range r.list.Devices {
			out.DeviceKeys[u][d.DeviceID] = d.Keys
		}
	}
	return out, r.call("query")
}

func (r *fakeRemote) ClaimKeys(context.Context, id.ServerName, keys.Wants) (keys.Claimed, error) {
	return r.claimed, r.call("claim")
}

func (r *fakeRemote) UserDevices(context.Context, id.ServerName, id.UserID) (*keys.UserDevices, error) {
	list := r.list
	return &list, r.call("devices")
}

// asked are the calls since the last time.
func (r *fakeRemote) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}
