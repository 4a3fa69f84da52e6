package keys_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const manyServers = 100

// queued is how many data units something queues for other servers, and how many bytes they have in all.
func (f *fixture) queued(do func()) (units, size int) {
	f.Helper()
	do()
	servers := []id.ServerName{there}
	for i := range manyServers {
		servers = append(servers, serverName(i))
	}
	f.update(func(tx *store.Tx) error {
		units, size = 0, 0
		for _, server := range servers {
			waiting, _, err := tx.Outbox.Next(server, 0, 10_000, 64<<20)
			if err != nil {
				return err
			}
			for _, w := range waiting {
				units++
				size += len(w.EDU)
				if err := tx.Outbox.Delete(server, w.Position); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return units, size
}

func serverName(i int) id.ServerName { return id.ServerName(fmt.Sprintf("s%d.test", i)) }

// TestManyServersAreToldLittle: others wait while something is written for each of many servers, so it is small, whatever a
// user's devices have.
func TestManyServersAreToldLittle(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice)
		var servers []id.ServerName
		for i := range manyServers {
			servers = append(servers, serverName(i))
			f.member("!a", "join", id.UserID("@m:"+string(servers[i])))
		}
		var devices []id.DeviceID
		for i := range 40 {
			devices = append(devices, id.DeviceID(fmt.Sprint("D", i)))
			f.addDevice(alice, devices[i])
		}
		pad := strings.Repeat("x", 30<<10)
		little := func(what string, do func()) {
			f.Helper()
			if units, size := f.queued(do); units != manyServers || size > manyServers*512 {
				f.Errorf("%s: %d data units of %d bytes were queued", what, units, size)
			}
		}
		little("keys", func() { f.upload(alice, "D0", pad) })
		little("a join", func() { f.update(func(tx *store.Tx) error { return f.Joined(tx, alice, servers) }) })
		little("a new name", func() { f.changeDevices(alice, devices[:1], func(*store.Tx) error { return nil }) })
		little("devices that go", func() {
			f.changeDevices(alice, nil, func(tx *store.Tx) error {
				for _, d := range devices {
					if _, err := tx.Devices.Delete(alice, d); err != nil {
						return err
					}
				}
				return nil
			}, devices...)
		})
		i := newIdentity(f.T, alice)
		signing := i.published()
		signing.Master = []byte(`{"pad":"` + pad + `",` + string(signing.Master[1:]))
		little("cross-signing keys", func() { f.must(f.UploadSigningKeys(f.Context(), alice, signing, false)) })
		if units, size := f.queued(func() { f.upload(alice, "A", "small") }); units != manyServers || size < manyServers*100 {
			f.Errorf("of few bytes %d data units of %d bytes were queued", units, size)
		}
	})
}

// TestUpdatesThatTellNothingMakeServersFetch: that is how a server is told of much. It does, whether it has the list or is
// just fetching it.
func TestUpdatesThatTellNothingMakeServersFetch(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		tell := func(streamID int) {
			f.must(f.ReceiveDeviceListUpdate(f.Context(), there, encode(map[string]any{
				"user_id": carol, "device_id": "C", "stream_id": streamID, "prev_id": []int{1},
			})))
		}
		unknown := f.position()
		f.must(f.ReceiveDeviceListUpdate(f.Context(), there, encode(map[string]any{
			"user_id": carol, "device_id": "C", "stream_id": 6, "prev_id": []int{},
		})))
		f.wantChanges("what comes with a user", alice, unknown, nil, nil)
		f.carolHas(7, "1")
		f.remote.during = func() { tell(8) }
		f.wantCarol("while it is fetched", "1", "devices", "devices")
		f.remote.during = nil
		f.carolHas(8, "2")
		start := f.position()
		f.wantCarol("afterwards", "2", "devices")
		f.wantCarol("cached", "2")
		tell(8)
		f.wantChanges("what is known", alice, start, nil, nil)
		f.wantCarol("what is known", "2")
		f.carolHas(9, "3")
		tell(9)
		f.wantChanges("what is new", alice, start, []id.UserID{carol}, nil)
		f.wantCarol("what is new", "3", "devices")
	})
}

// TestWhoJoinsMeanwhileIsTold: who hears of a change is found out before the update that makes it.
func TestWhoJoinsMeanwhileIsTold(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice)
		for name, join := range map[string]id.UserID{"somebody else": carol, "the user": alice} {
			f.member("!b", "leave", alice)
			f.member("!a", "leave", carol)
			if f.member("!b", "join", "@dave:there"); join == carol {
				f.member("!a", "join", alice)
			}
			tell, err := f.DevicesChanging(f.Context(), alice)
			f.must(err)
			if f.member("!a", "join", join); join == alice {
				f.member("!b", "join", alice)
			}
			f.update(func(tx *store.Tx) error { return tell(tx, []id.DeviceID{"A"}, nil) })
			if got := f.sent(); len(got) != 1 {
				f.Errorf("%s joined, and %v was sent", name, got)
			}
		}
	})
}

// TestWhoHearsIsFoundOutBefore: it takes long for who is in large rooms, so it is not done in the update.
func TestWhoHearsIsFoundOutBefore(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		tell, err := f.DevicesChanging(f.Context(), alice)
		f.must(err)
		f.update(func(tx *store.Tx) error { // not what the room engine does: no position is taken, so that nothing shows it
			m, err := tx.Memberships.Get(rooms["!a"], carol)
			if err != nil {
				return err
			}
			m.Membership = "leave"
			return tx.Memberships.Set(m, "join", false)
		})
		f.update(func(tx *store.Tx) error { return tell(tx, []id.DeviceID{"A"}, nil) })
		if got := f.sent(); len(got) != 1 {
			f.Errorf("%v was sent", got)
		}
	})
}

// TestUpdatesForSilentServersDoNotPileUp: those that were not delivered when more come are replaced by one that has the list
// fetched.
func TestUpdatesForSilentServersDoNotPileUp(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol, "@m:s0.test")
		f.upload(alice, "A", strings.Repeat("x", 30<<10))
		i := newIdentity(f.T, alice)
		f.must(f.UploadSigningKeys(f.Context(), alice, i.published(), true))
		waiting := func() (rows []store.OutboxRow, size int) {
			f.view(func(tx *store.Tx) (err error) {
				rows, _, err = tx.Outbox.Next(there, 0, 1000, 64<<20)
				return err
			})
			for _, r := range rows {
				size += len(r.EDU)
			}
			return rows, size
		}
		most, largest := 0, 0
		for n := range 100 {
			f.changeDevices(alice, []id.DeviceID{"A"}, func(*store.Tx) error { return nil })
			f.update(func(tx *store.Tx) error { return f.Joined(tx, alice, []id.ServerName{there}) })
			if n%10 == 0 { // as for a server that is there
				f.update(func(tx *store.Tx) error { return tx.Outbox.Delete("s0.test", f.position()) })
			}
			rows, size := waiting()
			most, largest = max(most, len(rows)), max(largest, size)
		}
		if most > 21 || largest > 1<<20 {
			f.Errorf("up to %d data units of %d bytes waited", most, largest)
		}
		f.deleteDevice(alice, "A")
		got := f.sent()
		for n, e := range got[1:] { // each follows the one before, or has the list fetched
			prev := e.Content["prev_id"].([]any)
			if len(prev) > 0 && prev[0] != got[n].Content["stream_id"] && prev[0] != 1. {
				f.Errorf("update %v comes behind %v", e.Content["stream_id"], got[n].Content["stream_id"])
			}
		}
		if last := got[len(got)-1]; last.Content["device_id"] != "A" {
			f.Errorf("the last update is %v", last)
		}
	})
}
