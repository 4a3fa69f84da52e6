package account_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

func TestProfile(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		failed := errors.New("a room is busy")
		var told []string
		s := newService(db, func(o *account.Options) {
			o.ProfileChanged = func(_ context.Context, _ id.RoomID, shown account.Shown) (int, error) {
				told = append(told, shown.Fields...)
				if len(told) == 1 {
					return 0, failed
				}
				return 0, nil
			}
		})
		alice := register(t, s, "alice", false).User
		joinRooms(t, db, alice, 1)
		set := func(field, value string) error { return s.SetProfileField(ctx, alice, field, json.RawMessage(value)) }
		if err := errors.Join(set("displayname", `"Alice"`), set("avatar_url", `"mxc://h/a"`), set("m.tz", `"Europe/London"`), set("org.example.x", `{"a":[1]}`)); err != nil {
			t.Fatal(err)
		}
		profile, err := s.Profile(ctx, alice, "")
		if err != nil || len(profile) != 4 || string(profile["org.example.x"]) != `{"a":[1]}` {
			t.Errorf("got %s, %v", profile, err)
		}
		for field, value := range map[string]string{
			"displayname": `1`, "avatar_url": `{}`, "x": `1`, "Org.example": `1`, "": `1`, "m.tz": `[]`, "org.example.half": `"\ud83d"`,
		} {
			wantErr(t, field+" = "+value, set(field, value), account.ErrInvalidParam)
		}
		wantErr(t, "half of a character", set("displayname", `"\ud83d"`), account.ErrInvalidParam)
		wantErr(t, "257 characters", set("displayname", `"`+strings.Repeat("é", 257)+`"`), account.ErrInvalidParam)
		wantErr(t, "a long key", set("a."+strings.Repeat("a", 254), `1`), account.ErrKeyTooLarge)
		wantErr(t, "a large profile", set("org.example.large", `"`+strings.Repeat("a", 64<<10)+`"`), account.ErrProfileTooLarge)
		if err := errors.Join(set("displayname", `""`), s.DeleteProfileField(ctx, alice, "m.tz"), s.DeleteProfileField(ctx, alice, "m.tz")); err != nil {
			t.Fatal(err)
		}
		_, err = s.Profile(ctx, alice, "displayname")
		wantErr(t, "a field that was emptied", err, account.ErrNotFound)
		_, err = s.Profile(ctx, "@nobody:example.org", "")
		wantErr(t, "an unknown user", err, account.ErrNotFound)

		// What fails is kept, and done by the next who looks, such as another process.
		runOnce(t, s)
		runOnce(t, s) // not due yet
		if !slices.Equal(told, []string{"avatar_url", "displayname"}) {
			t.Errorf("rooms were told of %v, want both fields, the first in vain", told)
		}
		hasten(t, s, 1, 0)
		runOnce(t, s)
		hasten(t, s, 0, 0)
		if !slices.Equal(told, []string{"avatar_url", "displayname", "avatar_url"}) {
			t.Errorf("rooms were told of %v, want what was in vain once more", told)
		}
	})
}

// hasten makes all errands due that have to wait, with at least so many failures, and wants so many.
func hasten(t *testing.T, s *account.Service, want, failures int) {
	t.Helper()
	err := s.DB.Update(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Errands.Due(time.Now().Add(2*time.Hour), time.Hour, 1000)
		if len(list) != want {
			t.Errorf("%d errands are left, want %d", len(list), want)
		}
		for _, e := range list {
			err = errors.Join(err, tx.Errands.Delay(e, max(e.Failures, failures), time.Time{}))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestErrandsThatFail has more of them than are looked at at once, before one that does not fail.
func TestErrandsThatFail(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const failing, tries = 101, 30 // they are looked at by hundreds
		told := map[id.UserID]int{}
		s := newService(db, func(o *account.Options) {
			o.ProfileChanged = func(_ context.Context, _ id.RoomID, shown account.Shown) (int, error) {
				told[shown.User]++
				if shown.User != "@z:example.org" {
					return 0, errors.New("a room is broken")
				}
				return 0, nil
			}
		})
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			err := tx.Errands.Add("@z:example.org", "room !r:example.org")
			for i := range failing {
				err = errors.Join(err, tx.Errands.Add(id.UserID(fmt.Sprintf("@a%d:example.org", i)), "room !r:example.org"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		runOnce(t, s)
		hasten(t, s, failing, tries-2)
		runOnce(t, s)
		hasten(t, s, failing, 0)
		runOnce(t, s)
		hasten(t, s, 0, 0) // given up
		if len(told) != failing+1 || told["@z:example.org"] != 1 || told["@a0:example.org"] != 3 {
			t.Errorf("told %d users, the last %d times, one that fails %d times", len(told), told["@z:example.org"], told["@a0:example.org"])
		}
	})
}

// runOnce does what there is to do. An errand that comes last tells that the others have been looked at.
func runOnce(t *testing.T, s *account.Service) {
	t.Helper()
	const last id.UserID = "@last:example.org"
	err := s.DB.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.Errands.Add(last, "room !r:example.org"),
			tx.Errands.Delay(store.Errand{User: last, Kind: "room !r:example.org", Serial: 1}, 0, time.UnixMilli(1)))
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	do := s.ProfileChanged
	s.ProfileChanged = func(ctx context.Context, room id.RoomID, shown account.Shown) (int, error) {
		if shown.User == last {
			stop()
			return 0, nil
		}
		return do(ctx, room, shown)
	}
	s.Run(ctx)
	s.ProfileChanged = do
}

func TestRemoteProfile(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), func(o *account.Options) {
		o.RemoteProfile = func(_ context.Context, u id.UserID, _ string) (map[string]json.RawMessage, error) {
			if u != "@bob:remote" {
				return nil, fmt.Errorf("remote: %w", account.ErrNotFound)
			}
			return map[string]json.RawMessage{"displayname": json.RawMessage(`"Bob"`)}, nil
		}
	})
	if p, err := s.Profile(t.Context(), "@bob:remote", "displayname"); err != nil || string(p["displayname"]) != `"Bob"` {
		t.Errorf("got %s, %v", p, err)
	}
	_, err := s.Profile(t.Context(), "@bob:remote", "avatar_url")
	wantErr(t, "a field that is not there", err, account.ErrNotFound)
	_, err = s.Profile(t.Context(), "@eve:remote", "")
	wantErr(t, "a user who is not there", err, account.ErrNotFound)
}

func TestAccountData(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		const room = id.RoomID("!r:example.org")
		waiter := db.Hub.Subscribe(alice)
		defer waiter.Close()
		before := db.Hub.Current()
		for _, content := range []string{`{"v":1}`, `{"v":2}`} {
			if err := errors.Join(s.SetAccountData(ctx, alice, "", "x", json.RawMessage(content)), s.SetAccountData(ctx, alice, room, "x", json.RawMessage(content))); err != nil {
				t.Fatal(err)
			}
		}
		<-waiter.C
		if got, err := s.AccountData(ctx, alice, "", "x"); err != nil || string(got) != `{"v":2}` {
			t.Errorf("got %s, %v", got, err)
		}
		_, err := s.AccountData(ctx, alice, "!other:example.org", "x")
		wantErr(t, "another room", err, account.ErrNotFound)
		wantErr(t, "m.push_rules", s.SetAccountData(ctx, alice, "", "m.push_rules", json.RawMessage(`{}`)), account.ErrProtected)
		wantErr(t, "m.fully_read", s.SetAccountData(ctx, alice, room, "m.fully_read", json.RawMessage(`{}`)), account.ErrProtected)
		large := json.RawMessage(`"` + strings.Repeat("x", account.MaxAccountData-1) + `"`)
		wantErr(t, "one byte too much", s.SetAccountData(ctx, alice, "", "x", large), account.ErrTooLarge)

		for _, tag := range []string{"u.work", "m.favourite", "u.gone"} {
			if err := s.SetTag(ctx, alice, room, tag, json.RawMessage(`{"order":0.5}`)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SetTag(ctx, alice, room, "u.gone", nil); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{`{"order":-0.1}`, `{"order":1.1}`, `{"order":"0.5"}`, `{"order":0,"x":"\ud800"}`} {
			wantErr(t, bad, s.SetTag(ctx, alice, room, "u.bad", json.RawMessage(bad)), account.ErrInvalidParam)
		}
		for _, bad := range []string{`{"x":"\ud800"}`, `{"x":"\udc00\ud800"}`, `{"\udfff":1}`, `{"b":1e400}`} {
			wantErr(t, bad, s.SetAccountData(ctx, alice, "", "bad", json.RawMessage(bad)), account.ErrInvalidParam)
		}
		if tags, err := s.Tags(ctx, alice, room); err != nil || len(tags) != 2 || string(tags["u.work"]) != `{"order":0.5}` {
			t.Errorf("got %s, %v", tags, err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			changed, err := tx.AccountData.Changed(alice, before, db.Hub.Current())
			if err != nil || len(changed) != 3 || changed[0].Position >= changed[1].Position || changed[2].Type != "m.tag" || changed[2].Room != room {
				t.Errorf("changed: %+v, %v", changed, err)
			}
			one, err := tx.AccountData.Changed(alice, changed[0].Position, changed[1].Position)
			if err != nil || len(one) != 1 || one[0].Position != changed[1].Position {
				t.Errorf("a part of it: %+v, %v", one, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		changes, ok := db.Hub.Since(before, db.Hub.Current())
		if !ok || len(changes) == 0 || changes[0].Kind != stream.AccountData || changes[0].User != alice {
			t.Errorf("the log says %+v, %v", changes, ok)
		}
	})
}

// What a user keeps is bounded in bytes, and so is what a first sync tells of it.
func TestAccountDataIsBoundedInBytes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		large := json.RawMessage(`{"x":"` + strings.Repeat("x", 200<<10) + `"}`)
		set := func(i int, content json.RawMessage) error {
			return s.SetAccountData(ctx, alice, id.RoomID(fmt.Sprintf("!%d:example.org", i%3)), fmt.Sprint("large", i), content)
		}
		kept := 0
		for ; kept < 100; kept++ {
			if err := set(kept, large); err != nil {
				wantErr(t, "too much in all", err, account.ErrTooLarge)
				break
			}
		}
		if kept < 40 || kept > 52 {
			t.Fatalf("%d pieces of 200 KB are kept", kept)
		}
		wantErr(t, "tags are account data as well", s.SetTag(ctx, alice, "!r:example.org", "u.x", json.RawMessage(`{"x":"`+strings.Repeat("x", 200<<10)+`"}`)), account.ErrTooLarge)
		if err := set(0, json.RawMessage(`{}`)); err != nil {
			t.Errorf("less than before: %v", err)
		}
		if err := set(1, large); err != nil {
			t.Errorf("as much as before: %v", err)
		}
		if err := set(kept, large); err != nil {
			t.Errorf("there is room again: %v", err)
		}
		err := db.Update(ctx, func(tx *store.Tx) error {
			if _, err := tx.AccountData.DeleteSome(alice, 1000); err != nil {
				return err
			}
			n, err := tx.Stored.Bytes(alice, store.StoredAccountData)
			if n != 0 {
				t.Errorf("%d bytes are counted of a user who has nothing", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestFiltersAreBoundedInBytes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := newService(db, nil), t.Context()
		alice := register(t, s, "alice", false).User
		var all []string
		for i := range 72 {
			n, err := s.PutFilter(ctx, alice, json.RawMessage(fmt.Sprintf(`{"x%d":"%s"}`, i, strings.Repeat("x", 60<<10))))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
		_, err := s.FilterJSON(ctx, alice, all[0])
		wantErr(t, "the oldest", err, account.ErrNotFound)
		if _, err := s.FilterJSON(ctx, alice, all[10]); err != nil {
			t.Errorf("a newer one: %v", err)
		}
	})
}

// TestTagsAtOnce has many requests change the same account data: each is answered, so each must last.
func TestTagsAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		const n, room = 30, id.RoomID("!r:example.org")
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				if err := s.SetTag(t.Context(), alice, room, fmt.Sprint("u.", i), json.RawMessage(`{}`)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if tags, err := s.Tags(t.Context(), alice, room); err != nil || len(tags) != n {
			t.Errorf("%d of %d tags are left, %v", len(tags), n, err)
		}
	})
}

// TestAccountDataIsCheckedBefore the update that others wait for: what is refused, or changes nothing, does not wait for
// theirs.
func TestAccountDataIsCheckedBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		const room = id.RoomID("!r:example.org")
		if err := s.SetTag(t.Context(), alice, room, "u.x", json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
		begun, done := make(chan struct{}), make(chan struct{})
		var other sync.WaitGroup
		other.Go(func() {
			err := db.Update(t.Context(), func(*store.Tx) error {
				close(begun)
				<-done
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-begun
		half, large := json.RawMessage(`{"x":"\ud83d"}`), json.RawMessage(`{"x":"`+strings.Repeat("x", account.MaxAccountData)+`"}`)
		defer other.Wait()
		defer close(done)
		for what, c := range map[string]struct {
			do   func() error
			want error
		}{
			"half of a character":          {func() error { return s.SetAccountData(t.Context(), alice, "", "x", half) }, account.ErrInvalidParam},
			"a large tag":                  {func() error { return s.SetTag(t.Context(), alice, room, "u.large", large) }, account.ErrTooLarge},
			"half of a character in a tag": {func() error { return s.SetTag(t.Context(), alice, room, "u.half", half) }, account.ErrInvalidParam},
			"a tag that is not there":      {func() error { return s.SetTag(t.Context(), alice, room, "u.gone", nil) }, nil},
			"no direct chat":               {func() error { return s.AddDirect(t.Context(), alice, "!a:example.org", "!b:example.org") }, nil},
		} {
			answer := make(chan error, 1)
			go func() { answer <- c.do() }()
			if err := waittest.Get(t, what+", answered while others write", answer); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestFilters(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		content := json.RawMessage(`{"room":{"timeline":{"limit":10}}}`)
		first, err := s.PutFilter(ctx, alice, content)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.PutFilter(ctx, alice, content); err != nil || again != first {
			t.Errorf("the same filter became %s and %s, %v", first, again, err)
		}
		second, err := s.PutFilter(ctx, alice, json.RawMessage(`{}`))
		if err != nil || second == first {
			t.Errorf("got %s, %v", second, err)
		}
		_, err = s.PutFilter(ctx, alice, json.RawMessage(`{"event_fields":["\ud800"]}`))
		wantErr(t, "half of a character", err, account.ErrInvalidParam)
		if raw, err := s.FilterJSON(ctx, alice, first); err != nil || string(raw) != string(content) {
			t.Errorf("got %s, %v", raw, err)
		}
		for range 2 {
			if f, err := s.Filter(ctx, alice, first); err != nil || f.Room.Timeline.Count(20, 100) != 10 {
				t.Errorf("got %+v, %v", f, err)
			}
		}
		for _, unknown := range []string{"99", "x"} {
			_, err = s.Filter(ctx, alice, unknown)
			wantErr(t, unknown, err, account.ErrNotFound)
		}
		_, err = s.Filter(ctx, "@bob:example.org", first)
		wantErr(t, "another user's", err, account.ErrNotFound)
		_, err = s.Filter(ctx, alice, `{"room":1}`)
		wantErr(t, "inline", err, filter.ErrInvalid)
	})
}

func TestPasses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "alice", false).User
		token, err := s.LoginToken(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.OpenIDUser(ctx, token)
		wantErr(t, "a login token for OpenID", err, account.ErrUnknownToken)
		if l, err := s.LoginWithToken(ctx, token, account.DeviceRequest{}); err != nil || l.User != alice {
			t.Errorf("got %+v, %v", l, err)
		}
		_, err = s.LoginWithToken(ctx, token, account.DeviceRequest{})
		wantErr(t, "a second time", err, account.ErrBadLogin)
		open, err := s.OpenIDToken(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if u, err := s.OpenIDUser(ctx, open); err != nil || u != alice {
				t.Errorf("got %s, %v", u, err)
			}
		}
	})
}

func TestSharedSecret(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), func(o *account.Options) {
		o.Registration = account.Registration{SharedSecret: "hush"}
	})
	ctx := t.Context()
	nonce, err := s.Nonce(ctx)
	if err != nil {
		t.Fatal(err)
	}
	proof := func(nonce, role string) account.SharedProof {
		mac := hmac.New(sha1.New, []byte("hush"))
		fmt.Fprintf(mac, "%s\x00%s\x00%s\x00%s", nonce, "Root", password, role)
		return account.SharedProof{Nonce: nonce, MAC: hex.EncodeToString(mac.Sum(nil))}
	}
	wanted := account.Account{Username: "Root", Password: password, Admin: true, DisplayName: "The Root"}
	_, err = s.RegisterShared(ctx, wanted, proof(nonce, "notadmin"))
	wantErr(t, "a MAC for something else", err, account.ErrForbidden)
	_, err = s.RegisterShared(ctx, wanted, proof("made up", "admin"))
	wantErr(t, "a made-up nonce", err, account.ErrForbidden)
	l, err := s.RegisterShared(ctx, wanted, proof(nonce, "admin"))
	if err != nil || l.User != "@root:example.org" || !mustAuthenticate(t, s, l.AccessToken).Admin {
		t.Errorf("got %+v, %v", l, err)
	}
	if p, err := s.Profile(ctx, l.User, account.FieldDisplayName); err != nil || string(p[account.FieldDisplayName]) != `"The Root"` {
		t.Errorf("the profile is %s, %v", p, err)
	}
	wanted.Username = "Other"
	mac := hmac.New(sha1.New, []byte("hush"))
	fmt.Fprintf(mac, "%s\x00Other\x00%s\x00admin", nonce, password)
	_, err = s.RegisterShared(ctx, wanted, account.SharedProof{Nonce: nonce, MAC: hex.EncodeToString(mac.Sum(nil))})
	wantErr(t, "a used nonce", err, account.ErrForbidden)
}
