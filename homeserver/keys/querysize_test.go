package keys_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
)

// largeRemote is another server whose users have many devices or large ones.
type largeRemote struct {
	fakeRemote
	devices func(id.UserID) []keys.UserDevice
	silent  id.UserID // it says nothing of
}

func (r *largeRemote) UserDevices(_ context.Context, _ id.ServerName, user id.UserID) (*keys.UserDevices, error) {
	return &keys.UserDevices{UserID: user, StreamID: 7, Devices: r.devices(user)}, r.call("devices")
}

func (r *largeRemote) QueryKeys(_ context.Context, _ id.ServerName, users map[id.UserID][]id.DeviceID) (*keys.Published, error) {
	out := &keys.Published{DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}}
	for u := range users {
		if u == r.silent {
			continue
		}
		out.DeviceKeys[u] = map[id.DeviceID]json.RawMessage{}
		for _, d := range r.devices(u) {
			out.DeviceKeys[u][d.DeviceID] = d.Keys
		}
	}
	return out, r.call("query")
}

// devicesOf makes a number of devices whose keys have about so many bytes each.
func devicesOf(user id.UserID, n, size int) []keys.UserDevice {
	pad := strings.Repeat("x", size)
	out := make([]keys.UserDevice, n)
	for i := range out {
		device := id.DeviceID(fmt.Sprintf("D%04d", i))
		out[i] = keys.UserDevice{DeviceID: device, Keys: identity(user, device, pad)}
	}
	return out
}

func (f *fixture) isLarge(devices func(id.UserID) []keys.UserDevice) *largeRemote {
	r := &largeRemote{devices: devices}
	f.Remote = r
	return r
}

// TestListsOfRemoteUsersAreCut: what is too much of another server's user is left out, the same each time.
func TestListsOfRemoteUsersAreCut(t *testing.T) {
	each(t, func(f *fixture) {
		logged := &counter{}
		f.Log = slog.New(logged)
		f.makeRooms()
		f.member("!a", "join", alice)
		for name, c := range map[string]struct{ n, size, taken int }{
			"few":   {200, 1 << 10, 200},
			"many":  {300, 10, 200},
			"large": {100, 30 << 10, (2 << 20) / (30<<10 + 500)},
		} {
			user := id.UserID("@" + name + ":there")
			backwards := false
			f.isLarge(func(u id.UserID) []keys.UserDevice {
				list := devicesOf(u, c.n, c.size)
				if backwards {
					slices.Reverse(list)
				}
				return list
			})
			logged.n = 0
			first := f.query(alice, user).DeviceKeys[user]
			if cut := c.taken < c.n; len(first) != c.taken || (logged.n == 1) != cut {
				f.Errorf("%s: %d devices were taken, want %d; %d lines were logged", name, len(first), c.taken, logged.n)
			}
			f.member("!a", "join", user)
			backwards = true
			for _, what := range []string{"followed", "cached"} {
				if got := f.query(alice, user).DeviceKeys[user]; !slices.Equal(names(got), names(first)) {
					f.Errorf("%s, %s: the devices are other ones", name, what)
				}
			}
			for i := range 3 { // and they come one by one
				device := id.DeviceID(fmt.Sprint("E", i))
				f.must(f.ReceiveDeviceListUpdate(f.Context(), there, encode(map[string]any{
					"user_id": user, "device_id": device, "stream_id": 8 + i, "prev_id": []int{7 + i}, "keys": identity(user, device, "x"),
				})))
			}
			f.view(func(tx *store.Tx) error {
				if n, size, err := tx.DeviceKeys.Size(user); err != nil || n > 200 || size > 2<<20 {
					f.Errorf("%s: %d devices of %d bytes are kept, %v", name, n, size, err)
				}
				return nil
			})
		}
	})
}

func names(devices map[id.DeviceID]json.RawMessage) []id.DeviceID {
	return slices.Sorted(maps.Keys(devices))
}

// counter counts what is logged.
type counter struct {
	slog.Handler
	n int
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }

func (c *counter) Handle(context.Context, slog.Record) error {
	c.n++
	return nil
}

// TestListsAreCachedInSteps: others' updates come in between.
func TestListsAreCachedInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice)
		f.isLarge(func(u id.UserID) []keys.UserDevice { return devicesOf(u, 20, 30<<10) })
		ask := map[id.UserID][]id.DeviceID{}
		for i := range 10 {
			u := id.UserID(fmt.Sprintf("@u%d:there", i))
			f.member("!a", "join", u)
			ask[u] = nil
		}
		updates := f.updates(func() {
			_, failures, err := f.Query(f.Context(), alice, ask, 0)
			f.must(err)
			if len(failures) > 0 {
				f.Error(failures)
			}
		})
		if updates != 10 { // two do not go into one
			f.Errorf("6 MB were written in %d updates", updates)
		}
	})
}

// TestKeysOfOneAnswerAreBounded: who has no place is named as a failure, and has one when a client asks again.
func TestKeysOfOneAnswerAreBounded(t *testing.T) {
	each(t, func(f *fixture) {
		ask := map[id.UserID][]id.DeviceID{alice: nil}
		f.update(func(tx *store.Tx) error { // an honest query
			for i := range 250 {
				u := id.UserID(fmt.Sprintf("@u%d:here", i))
				ask[u] = nil
				for _, d := range devicesOf(u, 10, 2<<10) {
					if err := tx.DeviceKeys.Set(store.IdentityKeys{User: u, Device: d.DeviceID, JSON: d.Keys}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		got, failures, err := f.Query(f.Context(), alice, ask, 0)
		f.must(err)
		if len(got.DeviceKeys) != 251 || len(failures) > 0 {
			f.Errorf("of 250 users %d were found, with %v", len(got.DeviceKeys)-1, failures)
		}
		f.isLarge(func(u id.UserID) []keys.UserDevice { return devicesOf(u, 60, 30<<10) })
		hostile := 0
		for _, server := range []string{"here", "there"} {
			for i := range 5 {
				u := id.UserID(fmt.Sprintf("@h%d:%s", i, server))
				ask[u] = nil
				hostile++
				if server == "there" {
					continue
				}
				f.update(func(tx *store.Tx) error {
					for _, d := range devicesOf(u, 60, 30<<10) {
						if err := tx.DeviceKeys.Set(store.IdentityKeys{User: u, Device: d.DeviceID, JSON: d.Keys}); err != nil {
							return err
						}
					}
					return nil
				})
			}
		}
		for round := 0; len(ask) > 0; round++ {
			got, failures, err := f.Query(f.Context(), alice, ask, 0)
			f.must(err)
			if size := len(encode(got)); size > 9<<20 || got.Size() > 8<<20 || len(got.DeviceKeys) == 0 || round > hostile {
				f.Fatalf("round %d: %d users with %d bytes", round, len(got.DeviceKeys), size)
			}
			if round == 0 && (len(got.DeviceKeys) < 251 || got.DeviceKeys["@u249:here"] == nil) {
				f.Errorf("who has little is kept out: %d users are found", len(got.DeviceKeys))
			}
			for u, devices := range got.DeviceKeys {
				if want := 60; u[1] == 'h' && len(devices) != want {
					f.Errorf("%s has %d devices", u, len(devices))
				}
				delete(ask, u)
			}
			for u := range ask {
				if !errors.Is(failures[u.Server()], keys.ErrTooLarge) {
					f.Errorf("round %d: %s is missing, and the failures are %v", round, u, failures)
				}
			}
		}
	})
}

// TestKeysForAnotherServerAreBounded: who has no place is not in the answer, so that the other server does not take them for
// somebody without devices.
func TestKeysForAnotherServerAreBounded(t *testing.T) {
	each(t, func(f *fixture) {
		ask := map[id.UserID][]id.DeviceID{alice: nil}
		f.update(func(tx *store.Tx) error {
			for i := range 5 {
				u := id.UserID(fmt.Sprintf("@h%d:here", i))
				ask[u] = nil
				for _, d := range devicesOf(u, 60, 30<<10) {
					if err := tx.DeviceKeys.Set(store.IdentityKeys{User: u, Device: d.DeviceID, JSON: d.Keys}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		got, err := f.QueryLocal(f.Context(), ask)
		f.must(err)
		if len(got.DeviceKeys) != 5 || got.DeviceKeys[alice] == nil || got.DeviceKeys["@h4:here"] != nil {
			f.Errorf("%v are found", slices.Sorted(maps.Keys(got.DeviceKeys)))
		}

		f.makeRooms()
		f.member("!a", "join", alice)
		r := f.isLarge(func(u id.UserID) []keys.UserDevice { return devicesOf(u, 1, 10) })
		r.silent = "@u3:there"
		clear(ask)
		for i := range 10 {
			u := id.UserID(fmt.Sprintf("@u%d:there", i))
			f.member("!a", "join", u)
			ask[u] = nil
		}
		found, _, err := f.Query(f.Context(), alice, ask, 0)
		f.must(err)
		if _, there := found.DeviceKeys[r.silent]; there || len(found.DeviceKeys) != 9 {
			f.Errorf("%v are found", slices.Sorted(maps.Keys(found.DeviceKeys)))
		}
		r.silent = ""
		if got := f.query(alice, "@u3:there").DeviceKeys["@u3:there"]; len(got) != 1 {
			f.Errorf("who was left out has %d devices", len(got))
		}
	})
}
