package keys_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

const signedCurve = "signed_curve25519"

func oneTime(names ...string) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, n := range names {
		out[signedCurve+":"+n] = encode(map[string]any{"key": "key of " + n, "signatures": map[string]any{}})
	}
	return out
}

func (f *fixture) uploadOneTime(names ...string) map[string]int {
	f.Helper()
	counts, err := f.Upload(f.Context(), alice, "A", keys.Upload{OneTime: oneTime(names...)})
	f.must(err)
	return counts
}

// claim claims a key of alice's device and returns its name; empty if there was none.
func (f *fixture) claim() string {
	f.Helper()
	got, _, err := f.Claim(f.Context(), keys.Wants{alice: {"A": signedCurve}}, 0)
	f.must(err)
	for name := range got[alice]["A"] {
		return strings.TrimPrefix(name, signedCurve+":")
	}
	if len(got) > 0 {
		f.Errorf("an answer without a key has %v", got)
	}
	return ""
}

func (f *fixture) counts() (c store.KeyCounts) {
	f.Helper()
	f.view(func(tx *store.Tx) (err error) {
		c, err = tx.OneTimeKeys.Counts(alice, "A")
		return err
	})
	return c
}

func TestOneTimeKeysAreGivenOutInOrderAndOnce(t *testing.T) {
	each(t, func(f *fixture) {
		f.uploadOneTime("z")
		f.uploadOneTime("m", "z")
		if counts := f.uploadOneTime("a"); counts[signedCurve] != 3 {
			f.Errorf("the counts are %v", counts)
		}
		for i, want := range []string{"z", "m", "a", ""} {
			if n := f.counts().OneTime[signedCurve]; n != 3-i && i < 3 {
				f.Errorf("%d keys are counted, want %d", n, 3-i)
			}
			if got := f.claim(); got != want {
				f.Errorf("claimed %q, want %q", got, want)
			}
		}
	})
}

// TestPanicsWithinOneServer has what another server says make us panic: that server has failed, and nothing else has.
func TestPanicsWithinOneServer(t *testing.T) {
	each(t, func(f *fixture) {
		f.remote.during = func() { panic("a bug") }
		_, failures, err := f.Claim(f.Context(), keys.Wants{carol: {"C": signedCurve}}, 0)
		if err != nil || failures[carol.Server()] == nil {
			f.Errorf("claim: %v, %v", failures, err)
		}
		_, failures, err = f.Query(f.Context(), alice, map[id.UserID][]id.DeviceID{carol: nil}, 0)
		if err != nil || failures[carol.Server()] == nil {
			f.Errorf("query: %v, %v", failures, err)
		}
	})
}

func TestConcurrentClaimsGetDifferentKeys(t *testing.T) {
	each(t, func(f *fixture) {
		const n = 20
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("k", i))
		}
		f.uploadOneTime(names...)
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				name := f.claim()
				mu.Lock()
				defer mu.Unlock()
				seen[name]++
			})
		}
		wg.Wait()
		if len(seen) != n || seen[""] > 0 {
			f.Errorf("%d claims got %v", n, seen)
		}
	})
}

func TestFallbackKeysComeLastAndStay(t *testing.T) {
	each(t, func(f *fixture) {
		upload := func(name string) {
			_, err := f.Upload(f.Context(), alice, "A", keys.Upload{Fallback: oneTime(name)})
			f.must(err)
		}
		upload("f1")
		f.uploadOneTime("o")
		if c := f.counts(); !slices.Equal(c.UnusedFallback, []string{signedCurve}) {
			f.Errorf("unused are %v", c.UnusedFallback)
		}
		for _, want := range []string{"o", "f1", "f1"} {
			if got := f.claim(); got != want {
				f.Errorf("claimed %q, want %q", got, want)
			}
		}
		upload("f1") // the same again does not make it unused
		if c := f.counts(); len(c.UnusedFallback) > 0 {
			f.Errorf("unused are %v", c.UnusedFallback)
		}
		upload("f2")
		if c := f.counts(); len(c.UnusedFallback) != 1 {
			f.Errorf("unused are %v", c.UnusedFallback)
		}
		if got := f.claim(); got != "f2" {
			f.Errorf("claimed %q", got)
		}
	})
}

func TestUploadRefusals(t *testing.T) {
	each(t, func(f *fixture) {
		f.uploadOneTime("k")
		different := map[string]json.RawMessage{signedCurve + ":k": json.RawMessage(`{"key":"another"}`)}
		resigned := map[string]json.RawMessage{signedCurve + ":k": json.RawMessage(`{"key":"key of k","signatures":{"a":{"b":"c"}}}`)}
		two := oneTime("a", "b")
		many := map[string]json.RawMessage{}
		for i := range 1000 {
			many[fmt.Sprint(signedCurve, ":", i)] = json.RawMessage(`"x"`)
		}
		for _, c := range []struct {
			what string
			in   keys.Upload
			want error
		}{
			{"a different key of the same name", keys.Upload{OneTime: different}, keys.ErrKeyExists},
			{"the same key with other signatures", keys.Upload{OneTime: resigned}, nil},
			{"a key without algorithm", keys.Upload{OneTime: map[string]json.RawMessage{"k": json.RawMessage(`"x"`)}}, keys.ErrInvalid},
			{"a key that is a number", keys.Upload{OneTime: map[string]json.RawMessage{"a:k": json.RawMessage(`1`)}}, keys.ErrInvalid},
			{"a key that is too long", keys.Upload{OneTime: map[string]json.RawMessage{"a:k": encode(strings.Repeat("x", 4<<10))}}, keys.ErrTooLarge},
			{"a key too many", keys.Upload{OneTime: many}, keys.ErrTooLarge},
			{"two fallback keys of an algorithm", keys.Upload{Fallback: two}, keys.ErrInvalid},
			{"incomplete identity keys", keys.Upload{DeviceKeys: json.RawMessage(`{"user_id":"@alice:here","device_id":"A"}`)}, keys.ErrMissing},
			{"identity keys of another user", keys.Upload{DeviceKeys: identity(bob, "A", "x")}, keys.ErrNotOwn},
			{"identity keys of another device", keys.Upload{DeviceKeys: identity(alice, "B", "x")}, keys.ErrNotOwn},
			{"identity keys that are too long", keys.Upload{DeviceKeys: identity(alice, "A", strings.Repeat("x", 32<<10))}, keys.ErrTooLarge},
		} {
			_, err := f.Upload(f.Context(), alice, "A", c.in)
			if c.want == nil {
				f.must(err)
				continue
			}
			f.wants(err, c.want)
			if f.Failed() {
				f.Fatal(c.what)
			}
		}
		if n := f.counts().OneTime[signedCurve]; n != 1 {
			f.Errorf("refused uploads left %d keys", n)
		}
		_, err := f.Upload(f.Context(), alice, "GONE", keys.Upload{OneTime: two})
		f.wants(err, keys.ErrNotFound)
	})
}

func TestQueryShowsNamesAndWhatIsAskedFor(t *testing.T) {
	each(t, func(f *fixture) {
		f.addDevice(alice, "A2")
		f.upload(alice, "A", "one")
		f.upload(alice, "A2", "two")
		found, _, err := f.Query(f.Context(), bob, map[id.UserID][]id.DeviceID{alice: {"A2", "X"}, bob: nil}, 0)
		f.must(err)
		if got := slices.Sorted(maps.Keys(found.DeviceKeys[alice])); !slices.Equal(got, []id.DeviceID{"A2"}) {
			f.Errorf("got %v", got)
		}
		if !strings.Contains(string(found.DeviceKeys[alice]["A2"]), `"unsigned":{"device_display_name":"name of A2"}`) {
			f.Errorf("got %s", found.DeviceKeys[alice]["A2"])
		}
		if bobs, ok := found.DeviceKeys[bob]; !ok || len(bobs) > 0 {
			f.Errorf("a user without keys has %v", bobs)
		}
		if calls := f.remote.asked(); calls != nil {
			f.Errorf("the other server was asked %v", calls)
		}
	})
}

func TestDeletedDeviceLeavesNothing(t *testing.T) {
	each(t, func(f *fixture) {
		f.upload(alice, "A", "x")
		f.uploadOneTime("k")
		_, err := f.Upload(f.Context(), alice, "A", keys.Upload{Fallback: oneTime("f")})
		f.must(err)
		f.must(f.SendToDevice(f.Context(), keys.ToDevice{Sender: bob, Device: "B", Type: "t", TxnID: "1", Messages: message(alice, "A", `{}`)}))
		before := f.position()
		f.deleteDevice(alice, "A")
		if tag := f.tagOf(bob, alice, "A"); tag != "" {
			f.Error("identity keys are left")
		}
		if name := f.claim(); name != "" {
			f.Errorf("key %q is left", name)
		}
		if c := f.counts(); len(c.OneTime)+len(c.UnusedFallback) > 0 {
			f.Errorf("counts are left: %v", c)
		}
		if len(f.inbox(alice, "A")) > 0 {
			f.Error("messages are left")
		}
		f.wantChanges("after deleting a device", alice, before, []id.UserID{alice}, nil)
	})
}

func TestClaimedKeysAreNotTakenAgain(t *testing.T) {
	each(t, func(f *fixture) {
		f.uploadOneTime("k")
		if got := f.claim(); got != "k" {
			f.Fatalf("claimed %q", got)
		}
		// A client that did not hear that its upload was taken repeats it.
		if counts := f.uploadOneTime("k", "l"); counts[signedCurve] != 1 {
			f.Errorf("the counts are %v", counts)
		}
		if got := f.claim(); got != "l" {
			f.Errorf("claimed %q", got)
		}
		if got := f.claim(); got != "" {
			f.Errorf("%q is given out twice", got)
		}
		other := map[string]json.RawMessage{signedCurve + ":k": json.RawMessage(`{"key":"another"}`)}
		_, err := f.Upload(f.Context(), alice, "A", keys.Upload{OneTime: other})
		f.wants(err, keys.ErrKeyExists)

		// A device that is deleted takes its claims along.
		f.deleteDevice(alice, "A")
		f.addDevice(alice, "A")
		if counts := f.uploadOneTime("k", "l"); counts[signedCurve] != 2 {
			f.Errorf("of a new device, the counts are %v", counts)
		}
	})
}

func TestProvenIdentityKeysStay(t *testing.T) {
	each(t, func(f *fixture) {
		signed := func(curve string, more map[string]string) json.RawMessage {
			key, err := sign.NewKey()
			f.must(err)
			key.ID = "ed25519:A"
			all := map[string]string{"ed25519:A": sign.Base64(key.Public()), "curve25519:A": curve}
			maps.Copy(all, more)
			raw, err := sign.JSON(encode(map[string]any{"user_id": alice, "device_id": "A", "algorithms": []string{}, "keys": all}), string(alice), key)
			f.must(err)
			return raw
		}
		upload := func(raw json.RawMessage) error {
			_, err := f.Upload(f.Context(), alice, "A", keys.Upload{DeviceKeys: raw})
			return err
		}
		f.must(upload(identity(alice, "A", "nobody has signed these"))) // and anybody could have
		first := signed("c", nil)
		f.must(upload(first))
		f.must(upload(first))
		f.wants(upload(signed("c", nil)), keys.ErrIdentityFixed)
		f.wants(upload(identity(alice, "A", "c")), keys.ErrIdentityFixed)
		if got := f.tagOf(bob, alice, "A"); got != "c" {
			f.Errorf("the key is %q", got)
		}
		f.deleteDevice(alice, "A")
		f.addDevice(alice, "A")
		f.must(upload(signed("d", nil)))
	})
}

// TestOurFaultsAreNotTheirs: what another server told is good although it could not be kept.
func TestOurFaultsAreNotTheirs(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		f.remote.during = func() { _ = f.Store.Close() }
		found, failures, err := f.Query(f.Context(), alice, map[id.UserID][]id.DeviceID{carol: nil}, 0)
		if err != nil || len(failures) > 0 {
			f.Errorf("%v, failures %v, %v", found, failures, err)
		}
	})
}

// Many small limits make one large: all devices of a user together have one as well.
func TestKeysOfAUserAreBoundedInBytes(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		large := func(n int) keys.Upload {
			u := keys.Upload{OneTime: map[string]json.RawMessage{}}
			for i := range n {
				u.OneTime[fmt.Sprint("a:k", i)] = json.RawMessage(`"` + strings.Repeat("x", 4000) + `"`)
			}
			return u
		}
		f.addDevice(alice, "OTHER")
		_, err := f.Upload(ctx, alice, "A", large(900))
		f.must(err)
		_, err = f.Upload(ctx, alice, "OTHER", large(200))
		f.wants(err, keys.ErrTooLarge)
		_, err = f.Upload(ctx, alice, "OTHER", large(100))
		f.must(err)
		for i := range 17 {
			_, err = f.Upload(ctx, alice, "A", keys.Upload{Fallback: map[string]json.RawMessage{fmt.Sprintf("a%d:k", i): json.RawMessage(`"x"`)}})
			if i < 16 {
				f.must(err)
			}
		}
		f.wants(err, keys.ErrTooLarge)

		err = nil
		for i := 0; i < 100 && err == nil; i++ {
			device := id.DeviceID(fmt.Sprint("D", i))
			f.addDevice(alice, device)
			if _, err = f.Upload(ctx, alice, device, keys.Upload{DeviceKeys: identity(alice, device, strings.Repeat("x", 30<<10))}); err != nil && i < 60 {
				f.Errorf("the keys of %d devices are too much", i)
			}
		}
		f.wants(err, keys.ErrTooLarge)
	})
}
