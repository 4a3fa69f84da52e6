package keys_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

func TestChangesFollowWhoSharesRooms(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		start := f.position()
		f.upload(bob, "B", "1")
		f.wantChanges("sharing nothing", alice, start, nil, nil)

		f.member("!a", "join", alice)
		start = f.position()
		f.member("!a", "join", bob)
		f.wantChanges("bob joins", alice, start, []id.UserID{bob}, nil)
		f.wantChanges("bob joins", bob, start, []id.UserID{alice, bob}, nil)

		start = f.position()
		f.member("!a", "join", bob) // a changed profile
		f.wantChanges("bob changes his profile", alice, start, nil, nil)
		f.upload(bob, "B", "1")
		f.wantChanges("bob uploads the same again", alice, start, nil, nil)
		f.upload(bob, "B", "2")
		f.wantChanges("bob uploads keys", alice, start, []id.UserID{bob}, nil)

		f.member("!b", "join", alice, bob)
		start = f.position()
		f.member("!a", "leave", bob)
		f.wantChanges("bob leaves one of two rooms", alice, start, nil, nil)
		f.member("!b", "leave", bob)
		f.wantChanges("bob leaves both", alice, start, nil, []id.UserID{bob})
		f.wantChanges("bob leaves both", bob, start, nil, []id.UserID{alice})
		f.upload(bob, "B", "3")
		f.wantChanges("bob uploads keys elsewhere", alice, start, nil, []id.UserID{bob})
		f.member("!b", "join", bob)
		f.wantChanges("bob comes back", alice, start, []id.UserID{bob}, nil)
		f.wantChanges("bob comes back", bob, start, []id.UserID{alice, bob}, nil)
	})
}

// TestRoomTakenOver enters a room of another server: all its memberships come at one position, and who joins
// had been invited in the state before.
func TestRoomTakenOver(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		start := f.position()
		f.update(func(tx *store.Tx) error {
			tx.Log(stream.Change{Kind: stream.Event}, func(p stream.Position) error {
				for _, m := range []struct {
					user               id.UserID
					former, membership string
				}{{carol, "", "join"}, {alice, "", "invite"}, {bob, "", "invite"}, {bob, "invite", "join"}} {
					set := store.Membership{Room: rooms["!a"], User: m.user, Membership: m.membership, Position: p}
					if err := tx.Memberships.Set(set, m.former, m.user != carol); err != nil {
						return err
					}
				}
				return nil
			})
			return nil
		})
		f.wantChanges("bob has joined", bob, start, []id.UserID{bob, carol}, nil)
		f.wantChanges("alice is invited", alice, start, nil, nil)
	})
}

func TestChangesWakeWhoShares(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, bob)
		from := f.position()
		f.upload(alice, "A", "x")
		changes, ok := f.Store.Hub.Since(from, f.Store.Hub.Current())
		if !ok || len(changes) != 1 || changes[0].Kind != stream.DeviceList || !slices.Contains(changes[0].Wake, bob) || !slices.Contains(changes[0].Wake, alice) {
			f.Errorf("published was %+v", changes)
		}
	})
}

func TestOtherServersHearOfDevices(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.upload(alice, "A", "1")
		f.member("!a", "join", alice, carol)
		if got := f.sent(); got != nil {
			f.Errorf("sent before there was anyone to tell: %v", got)
		}
		f.update(func(tx *store.Tx) error { return f.Joined(tx, alice, []id.ServerName{here, there}) })
		f.upload(alice, "A", "2")
		f.changeDevices(alice, []id.DeviceID{"A"}, func(tx *store.Tx) error {
			_, err := tx.Devices.Rename(alice, "A", "new")
			return err
		})
		f.deleteDevice(alice, "A")
		got := f.sent()
		if len(got) != 4 {
			f.Fatalf("sent %v", got)
		}
		prev, number := []any{}, 0.0 // the first makes who comes to share a room fetch the list
		for i, e := range got {
			n, _ := e.Content["stream_id"].(float64)
			if e.Type != "m.device_list_update" || n <= number || !reflect.DeepEqual(e.Content["prev_id"], prev) {
				f.Errorf("update %d is %v", i, e)
			}
			prev, number = []any{n}, n
			if (e.Content["keys"] == nil) != (i == 0 || i == 3) || (e.Content["deleted"] == true) != (i == 3) {
				f.Errorf("update %d is %v", i, e)
			}
		}
		if got[2].Content["device_display_name"] != "new" {
			f.Errorf("after a new name %v was sent", got[2])
		}
		list, err := f.Devices(f.Context(), alice)
		f.must(err)
		if float64(list.StreamID) != number || len(list.Devices) != 0 {
			f.Errorf("the list is %+v", list)
		}
		_, err = f.Devices(f.Context(), "@nobody:here")
		f.wants(err, keys.ErrNotFound)
	})
}

// carolHas makes carol's server have one device with a tag.
func (f *fixture) carolHas(streamID int64, tag string) {
	f.remote.list = keys.UserDevices{UserID: carol, StreamID: streamID, Devices: []keys.UserDevice{
		{DeviceID: "C", Keys: identity(carol, "C", tag), DisplayName: "carol's"},
		{DeviceID: "BAD", Keys: identity(bob, "BAD", tag)}, // must be set aside
	}}
}

// wantCarol queries carol's device and checks the answer, and what her server was asked for that.
func (f *fixture) wantCarol(what, tag string, calls ...string) {
	f.Helper()
	if got := f.tagOf(alice, carol, "C"); got != tag {
		f.Errorf("%s: got %q, want %q", what, got, tag)
	}
	if got := f.tagOf(alice, carol, "BAD"); got != "" {
		f.Errorf("%s: a malformed device was taken", what)
	}
	if got := f.remote.asked(); !slices.Equal(got, calls) {
		f.Errorf("%s: the server was asked %v, want %v", what, got, calls)
	}
}

func (f *fixture) carolSends(streamID int64, prev []int64, tag string) {
	f.Helper()
	content := map[string]any{"user_id": carol, "device_id": "C", "stream_id": streamID, "prev_id": prev, "keys": identity(carol, "C", tag)}
	f.must(f.ReceiveDeviceListUpdate(f.Context(), there, encode(content)))
}

func TestRemoteListsAreCachedWhileFollowed(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.carolHas(7, "1")
		f.wantCarol("without a shared room", "1", "query", "query")
		f.member("!a", "join", alice, carol)
		f.wantCarol("first", "1", "devices")
		f.wantCarol("cached", "1")

		start := f.position()
		f.carolSends(8, []int64{7}, "2")
		f.wantChanges("an update", alice, start, []id.UserID{carol}, nil)
		f.wantCarol("after an update", "2")
		start = f.position()
		f.carolSends(8, []int64{7}, "old")
		f.wantChanges("a repeated update", alice, start, nil, nil)
		f.wantCarol("after a repeated update", "2")

		f.carolHas(10, "4")
		f.carolSends(10, []int64{9}, "4")
		f.wantChanges("after a gap", alice, start, []id.UserID{carol}, nil)
		f.wantCarol("after a gap", "4", "devices")
		f.wantCarol("cached again", "4")

		f.carolHas(1, "5") // her server has lost its count
		f.carolSends(1, nil, "5")
		f.wantCarol("after her server counts anew", "5", "devices")
		f.carolSends(2, []int64{1}, "6")
		f.wantCarol("after the next update", "6")

		f.member("!a", "leave", carol)
		f.carolHas(11, "5")
		f.wantCarol("when carol has left", "5", "query", "query")
		f.member("!a", "join", carol)
		f.wantCarol("when carol is back", "5", "devices")
		f.must(f.ReceiveDeviceListUpdate(f.Context(), there, encode(map[string]any{
			"user_id": carol, "device_id": "C", "stream_id": 12, "prev_id": []int{11}, "deleted": true,
		})))
		f.wantCarol("when the device is deleted", "")
	})
}

func TestUpdateDuringAFetchIsNotLost(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		f.carolHas(1, "1")
		f.remote.during = func() { f.carolSends(2, []int64{1}, "2") }
		if got := f.tagOf(alice, carol, "C"); got != "1" {
			f.Errorf("got %q", got)
		}
		f.remote.during = nil
		f.carolHas(2, "2")
		f.remote.asked()
		f.wantCarol("afterwards", "2", "devices")
	})
}

func TestManyRemoteUsersAreAskedForAtOnce(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice)
		ask := map[id.UserID][]id.DeviceID{}
		for i := range 20 {
			u := id.UserID(fmt.Sprintf("@u%d:there", i))
			f.member("!a", "join", u)
			ask[u] = nil
		}
		for _, want := range [][]string{{"query"}, nil} { // the second time all are cached
			_, failures, err := f.Query(f.Context(), alice, ask, 0)
			f.must(err)
			if got := f.remote.asked(); !slices.Equal(got, want) || len(failures) > 0 {
				f.Errorf("the server was asked %v with failures %v, want %v", got, failures, want)
			}
		}
	})
}

func TestUnreachableServersAreNamed(t *testing.T) {
	each(t, func(f *fixture) {
		f.remote.down = true
		found, failures, err := f.Query(f.Context(), alice, map[id.UserID][]id.DeviceID{carol: nil, bob: nil}, 0)
		f.must(err)
		if failures[there] == nil || found.DeviceKeys[bob] == nil {
			f.Errorf("got %v, %v", found, failures)
		}
		_, failures, err = f.Claim(f.Context(), keys.Wants{carol: {"C": "a"}}, 0)
		f.must(err)
		if failures[there] == nil {
			f.Error("the claim did not fail")
		}
	})
}

func TestClaimedRemoteKeysAreThoseAskedFor(t *testing.T) {
	each(t, func(f *fixture) {
		f.remote.claimed = keys.Claimed{
			carol: {"C": {"a:1": []byte(`"x"`)}, "D": {"b:1": []byte(`"y"`)}},
			bob:   {"B": {"a:1": []byte(`"forged"`)}},
		}
		got, _, err := f.Claim(f.Context(), keys.Wants{carol: {"C": "a", "D": "a"}}, 0)
		f.must(err)
		if want := (keys.Claimed{carol: {"C": {"a:1": []byte(`"x"`)}}}); !reflect.DeepEqual(got, want) {
			f.Errorf("got %s", encode(got))
		}
	})
}

func TestServersSpeakForTheirUsersOnly(t *testing.T) {
	each(t, func(f *fixture) {
		of := func(u id.UserID) []byte {
			return encode(map[string]any{"user_id": u, "device_id": "B", "stream_id": 1, "sender": u, "type": "t", "message_id": "m"})
		}
		f.wants(f.ReceiveDeviceListUpdate(f.Context(), there, of(bob)), keys.ErrNotOwn)
		f.wants(f.ReceiveSigningKeyUpdate(f.Context(), there, of(bob)), keys.ErrNotOwn)
		f.wants(f.ReceiveToDevice(f.Context(), there, of(bob)), keys.ErrNotOwn)
		f.wants(f.ReceiveDeviceListUpdate(f.Context(), there, []byte(`{"user_id":1}`)), keys.ErrInvalid)
		f.wants(f.ReceiveToDevice(f.Context(), there, []byte(`{"sender":1}`)), keys.ErrInvalid)
	})
}

func TestPruneForgetsStrangers(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", alice, carol)
		f.carolHas(1, "1")
		f.wantCarol("first", "1", "devices")
		f.must(f.Prune(f.Context()))
		f.wantCarol("while followed", "1")
		f.member("!a", "leave", carol)
		f.must(f.Prune(f.Context()))
		f.view(func(tx *store.Tx) error {
			left, err := tx.DeviceKeys.ByUsers([]id.UserID{carol})
			if list, err := tx.DeviceLists.Get(carol); err != nil || list != (store.DeviceList{}) || len(left) > 0 {
				f.Errorf("%v and %v are left, %v", list, left, err)
			}
			return err
		})
	})
}
