package account_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// ended is what a service has deleted.
type ended struct {
	mu      sync.Mutex
	emptied []id.DeviceID
	deleted [][]id.DeviceID // by updates
	fails   error           // of emptying devices
}

func (e *ended) options(o *account.Options) {
	o.DevicesEnding = func(_ context.Context, _ id.UserID, devices []id.DeviceID) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.emptied = append(e.emptied, devices...)
		return e.fails
	}
	o.DevicesChanging = func(context.Context, id.UserID) (func(*store.Tx, []id.DeviceID, []id.DeviceID) error, error) {
		return func(_ *store.Tx, _, devices []id.DeviceID) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			if len(devices) > 0 {
				e.deleted = append(e.deleted, devices)
			}
			return nil
		}, nil
	}
}

// addDevices gives a user devices, each with a token that it can be refreshed with.
func addDevices(t *testing.T, db *store.DB, user id.UserID, n int) (out []id.DeviceID) {
	t.Helper()
	for i := range n {
		out = append(out, id.DeviceID(fmt.Sprintf("D%04d", i)))
	}
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		for _, d := range out {
			name := fmt.Sprintf("%031s", string(user)+string(d))
			if _, err := tx.Devices.Insert(store.Device{User: user, ID: d}); err != nil {
				return err
			}
			if err := tx.Tokens.Insert(store.Token{Access: []byte("a" + name)[:32], Refresh: []byte("r" + name)[:32], User: user, Device: d}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func devicesOf(t *testing.T, s *account.Service, user id.UserID) (out []id.DeviceID) {
	t.Helper()
	list, err := s.Devices(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		out = append(out, d.ID)
	}
	return out
}

// waysOut are the requests by which all devices of a user are logged out, but for the one that asks if it is to stay.
func waysOut(t *testing.T, s *account.Service, alice account.Login) map[string]func() error {
	return map[string]func() error{
		"logging out everywhere": func() error { return s.LogoutAll(t.Context(), alice.User) },
		"a new password": func() error {
			return s.ChangePassword(t.Context(), account.Requester{User: alice.User, Device: alice.Device}, "battery staple", true)
		},
		"deactivation": func() error { return s.Deactivate(t.Context(), alice.User, true) },
		"deletion": func() error {
			devices := devicesOf(t, s, alice.User)
			for i := range 300 {
				devices = append(devices, id.DeviceID(fmt.Sprint("unknown", i)))
			}
			return s.DeleteDevices(t.Context(), alice.User, devices...)
		},
	}
}

// TestDevicesAreDeletedInSteps: others' updates come in between, and all are gone when the request is answered.
func TestDevicesAreDeletedInSteps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var e ended
		s := newService(db, e.options)
		for what, end := range waysOut(t, s, account.Login{}) {
			e.deleted, e.emptied = nil, nil
			alice := register(t, s, fmt.Sprint("u", len(what)), false)
			added := addDevices(t, db, alice.User, 120)
			end = waysOut(t, s, alice)[what]
			if err := end(); err != nil {
				t.Fatal(what, err)
			}
			want := append(added, alice.Device)
			if what == "a new password" {
				want = added
			}
			if left := devicesOf(t, s, alice.User); len(left) != 121-len(want) {
				t.Errorf("after %s %v are left", what, left)
			}
			if len(e.deleted) != 3 || len(slices.MaxFunc(e.deleted, func(a, b []id.DeviceID) int { return len(a) - len(b) })) > 50 {
				t.Errorf("by %s the devices were deleted in steps of %v", what, e.deleted)
			}
			got := slices.Sorted(slices.Values(slices.Concat(e.deleted...)))
			if slices.Sort(want); !slices.Equal(got, want) || !slices.Equal(slices.Sorted(slices.Values(e.emptied)), want) {
				t.Errorf("by %s these were emptied: %v\nand these deleted: %v", what, e.emptied, got)
			}
		}
	})
}

// TestLogoutOutlivesTheProcess: when a request is answered no token is good for anything, whatever has become of the devices;
// these are deleted by the next process.
func TestLogoutOutlivesTheProcess(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := ended{fails: errors.New("killed")}
		s := newService(db, e.options)
		var users []id.UserID
		for what := range waysOut(t, s, account.Login{}) {
			alice := register(t, s, fmt.Sprint("u", len(what)), true)
			other, err := s.LoginWithPassword(t.Context(), alice.User, password, account.DeviceRequest{ID: "OTHER", Refresh: true})
			if err != nil {
				t.Fatal(err)
			}
			mustAuthenticate(t, s, other.AccessToken) // it is remembered
			if err := s.SetAccountData(t.Context(), alice.User, "", "x", []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			if err := waysOut(t, s, alice)[what](); err != nil {
				t.Fatal(what, err)
			}
			users = append(users, alice.User)
			for _, process := range []*account.Service{s, newService(db, nil)} {
				_, err := process.Authenticate(t.Context(), other.AccessToken)
				wantErr(t, "a token after "+what, err, account.ErrUnknownToken)
				_, err = process.Refresh(t.Context(), other.RefreshToken)
				wantErr(t, "a refresh token after "+what, err, account.ErrUnknownToken)
			}
			if !slices.Contains(devicesOf(t, s, alice.User), "OTHER") {
				t.Errorf("after %s the device is gone: the test shows nothing", what)
			}
		}
		var next ended
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		again := newService(db, next.options)
		wg.Go(func() { again.Run(ctx) })
		defer wg.Wait()
		defer stop()
		for _, user := range users {
			waittest.Until(t, "the device is deleted", func() bool { return !slices.Contains(devicesOf(t, s, user), "OTHER") })
		}
		waittest.Until(t, "the account data is deleted", func() bool {
			erased := -1
			err := db.View(t.Context(), func(tx *store.Tx) (err error) {
				erased, err = tx.AccountData.Count(id.UserID(fmt.Sprintf("@u%d:example.org", len("deactivation"))))
				return err
			})
			return err == nil && erased == 0
		})
	})
}

// TestLoginAsADeviceThatIsBeingDeleted makes a new one of it: what hung on the former is gone, what comes is not.
func TestLoginAsADeviceThatIsBeingDeleted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := ended{fails: errors.New("killed")}
		s := newService(db, e.options)
		alice := register(t, s, "alice", false)
		if _, err := s.LoginWithPassword(t.Context(), alice.User, password, account.DeviceRequest{ID: "D", Name: "former"}); err != nil {
			t.Fatal(err)
		}
		if err := s.LogoutAll(t.Context(), alice.User); err != nil {
			t.Fatal(err)
		}
		e.fails, e.emptied = nil, nil
		back, err := s.LoginWithPassword(t.Context(), alice.User, password, account.DeviceRequest{ID: "D", Name: "new"})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(e.emptied, []id.DeviceID{"D"}) || !slices.Equal(slices.Concat(e.deleted...), []id.DeviceID{"D"}) {
			t.Errorf("emptied %v, deleted %v", e.emptied, e.deleted)
		}
		if d, err := s.Device(t.Context(), alice.User, "D"); err != nil || d.DisplayName != "new" {
			t.Errorf("the device is %+v, %v", d, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		defer wg.Wait()
		defer stop()
		waittest.Until(t, "the other device is deleted", func() bool { return slices.Equal(devicesOf(t, s, alice.User), []id.DeviceID{"D"}) })
		mustAuthenticate(t, s, back.AccessToken)
	})
}
