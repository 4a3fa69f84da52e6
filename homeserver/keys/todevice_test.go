package keys_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
)

func message(user id.UserID, device id.DeviceID, content string) keys.Messages {
	return keys.Messages{user: {device: json.RawMessage(content)}}
}

func (f *fixture) send(txn string, m keys.Messages) {
	f.Helper()
	f.must(f.SendToDevice(f.Context(), keys.ToDevice{Sender: alice, Device: "A", Type: "t", TxnID: txn, Messages: m}))
}

func TestMessagesReachDevicesOnce(t *testing.T) {
	each(t, func(f *fixture) {
		f.addDevice(bob, "B2")
		f.send("1", message(bob, "B", `{"n":1}`))
		f.send("1", message(bob, "B", `{"n":1}`))
		f.send("2", keys.Messages{bob: {"*": json.RawMessage(`{"n":2}`), "B2": json.RawMessage(`{"n":3}`)}})
		f.send("3", message(bob, "GONE", `{}`))
		wrapped := func(n int) string { return fmt.Sprintf(`{"sender":"@alice:here","type":"t","content":{"n":%d}}`, n) }
		if got := f.inbox(bob, "B"); !slices.Equal(got, []string{wrapped(1), wrapped(2)}) {
			f.Errorf("B got %v", got)
		}
		if got := f.inbox(bob, "B2"); !slices.Equal(got, []string{wrapped(3)}) {
			f.Errorf("B2 got %v", got)
		}
		if got := f.inbox(bob, "GONE"); got != nil {
			f.Errorf("a device that is not there got %v", got)
		}
	})
}

func TestDeliveredMessagesGo(t *testing.T) {
	each(t, func(f *fixture) {
		for i := range 3 {
			f.send(fmt.Sprint(i), message(bob, "B", fmt.Sprintf(`{"n":%d}`, i)))
		}
		var first []store.ToDeviceMessage
		f.view(func(tx *store.Tx) (err error) {
			first, err = tx.ToDevice.Since(bob, "B", 0, f.position(), 2)
			return err
		})
		if len(first) != 2 {
			f.Fatalf("got %v", first)
		}
		f.must(f.Delivered(f.Context(), bob, "B", first[1].Position))
		if got := f.inbox(bob, "B"); len(got) != 1 {
			f.Errorf("%v is left", got)
		}
	})
}

func TestMessagesForOtherServers(t *testing.T) {
	each(t, func(f *fixture) {
		f.send("1", keys.Messages{carol: {"*": json.RawMessage(`{"b":1, "a":2}`)}, bob: {"B": json.RawMessage(`{}`)}})
		got := f.sent()
		if len(got) != 1 || got[0].Type != "m.direct_to_device" || got[0].Content["sender"] != "@alice:here" || got[0].Content["message_id"] == "" {
			f.Fatalf("sent %v", got)
		}
		if m := string(encode(got[0].Content["messages"])); m != `{"@carol:there":{"*":{"a":2,"b":1}}}` {
			f.Errorf("sent %s", m)
		}
	})
}

func TestReceivedMessagesAreDeliveredOnce(t *testing.T) {
	each(t, func(f *fixture) {
		edu := encode(map[string]any{"sender": carol, "type": "t", "message_id": "m", "messages": map[string]any{
			"@bob:here": map[string]any{"*": map[string]any{"n": 1}}, "@x:elsewhere": map[string]any{"*": map[string]any{}},
		}})
		for range 2 {
			f.must(f.ReceiveToDevice(f.Context(), there, edu))
		}
		if got := f.inbox(bob, "B"); !slices.Equal(got, []string{`{"sender":"@carol:there","type":"t","content":{"n":1}}`}) {
			f.Errorf("got %v", got)
		}
		if got := f.sent(); got != nil {
			f.Errorf("something was passed on: %v", got)
		}
	})
}

// large is a content of a number of bytes.
func large(size int) string { return `{"x":"` + strings.Repeat("x", size-len(`{"x":""}`)) + `"}` }

func TestOneMessageFillsOnlySoMuch(t *testing.T) {
	each(t, func(f *fixture) {
		for i := range 130 {
			f.addDevice(bob, id.DeviceID(fmt.Sprintf("D%03d", i)))
		}
		to := keys.ToDevice{Sender: alice, Device: "A", Type: "t", TxnID: "1", Messages: message(bob, "*", large(64<<10))}
		f.wants(f.SendToDevice(f.Context(), to), keys.ErrTooLarge)
		to.Messages = message(bob, "*", large(60<<10))
		f.must(f.SendToDevice(f.Context(), to))
	})
}

// TestInboxesAreBoundedByBytes has an inbox pruned early by who fills it, and in time.
func TestInboxesAreBoundedByBytes(t *testing.T) {
	each(t, func(f *fixture) {
		add := func(n int) {
			f.Helper()
			messages := slices.Repeat([]store.ToDeviceMessage{{User: bob, Device: "B", JSON: []byte(large(1 << 20))}}, n)
			f.must(f.Store.Update(f.Context(), func(tx *store.Tx) error {
				tx.ToDevice.Add(messages)
				return nil
			}))
		}
		holds := func(what string, want int) {
			f.Helper()
			n := 0
			f.view(func(tx *store.Tx) error {
				messages, err := tx.ToDevice.Since(bob, "B", 0, f.position(), 100)
				n = len(messages)
				return err
			})
			if n != want {
				f.Errorf("%s: %d messages are left, want %d", what, n, want)
			}
		}
		add(33)
		size := int64(len(`{"sender":"","type":"t","content":{}}`)+len(alice)) + keys.MessageOverhead
		f.SetDelivered(keys.PruneInboxesAfter - 2*size)
		f.send("1", message(bob, "B", `{}`))
		holds("less than has to be delivered", 34)
		f.send("2", message(bob, "B", `{}`))
		holds("as much as has to be delivered", 31+2)
		f.send("3", message(bob, "B", `{}`))
		add(1)
		holds("delivered anew", 31+4)
		f.must(f.Prune(f.Context()))
		holds("in time", 31+3)
	})
}

func TestMessageRefusals(t *testing.T) {
	each(t, func(f *fixture) {
		many := keys.Messages{bob: {}}
		for i := range 10_001 {
			many[bob][id.DeviceID(fmt.Sprint(i))] = json.RawMessage(`{}`)
		}
		for what, c := range map[string]struct {
			typ  string
			m    keys.Messages
			want error
		}{
			"no object":     {"t", message(bob, "B", `[]`), keys.ErrInvalid},
			"a fraction":    {"t", message(bob, "B", `{"n":1.5}`), keys.ErrInvalid},
			"no type":       {"", message(bob, "B", `{}`), keys.ErrInvalid},
			"a zero device": {"t", message(bob, "\x00", `{}`), keys.ErrInvalid},
			"no user":       {"t", message("bob", "B", `{}`), id.ErrInvalid},
			"too many":      {"t", many, keys.ErrTooLarge},
			"too large":     {"t", message(bob, "B", large(64<<10+1)), keys.ErrTooLarge},
		} {
			err := f.SendToDevice(f.Context(), keys.ToDevice{Sender: alice, Device: "A", Type: c.typ, TxnID: what, Messages: c.m})
			f.wants(err, c.want)
		}
	})
}

// TestStrangersPushNothingOut: whoever fills an inbox loses, of what others sent nothing is lost.
func TestStrangersPushNothingOut(t *testing.T) {
	each(t, func(f *fixture) {
		f.makeRooms()
		f.member("!a", "join", bob, carol)
		put := func(sender id.UserID, count, size int) {
			f.update(func(tx *store.Tx) error {
				var out []store.ToDeviceMessage
				for range count {
					raw := encode(map[string]any{"sender": sender, "type": "t", "content": map[string]any{"x": strings.Repeat("x", size)}})
					out = append(out, store.ToDeviceMessage{User: bob, Device: "B", Sender: sender, JSON: raw})
				}
				tx.ToDevice.Add(out)
				return nil
			})
		}
		put(carol, 5, 1000)
		put(alice, 5, 1000)
		for i := range 4 { // of many servers, each with few enough
			put(id.UserID(fmt.Sprint("@eve:evil", i)), 10, 1<<20)
		}
		f.must(f.Prune(f.Context()))
		left, size := map[id.UserID]int{}, 0
		f.view(func(tx *store.Tx) error {
			waiting, err := tx.ToDevice.Inbox(bob, "B")
			for _, w := range waiting {
				left[w.Sender]++
				size += w.Size
			}
			return err
		})
		if left[carol] != 5 || left[alice] != 5 || left["@eve:evil3"] != 10 || left["@eve:evil0"] > 2 || size > 32<<20 {
			f.Errorf("left are %v, %d bytes", left, size)
		}
		for range 5 { // many small ones
			put("@eve:evil4", 5001, 1)
		}
		f.must(f.Prune(f.Context()))
		clear(left)
		f.view(func(tx *store.Tx) error {
			waiting, err := tx.ToDevice.Inbox(bob, "B")
			for _, w := range waiting {
				left[w.Sender]++
			}
			return err
		})
		if left[carol] != 5 || left[alice] != 5 || left["@eve:evil4"] > 20_000 {
			f.Errorf("after many small messages, left are %v", left)
		}
	})
}

// TestNothingWaitsWithoutFederation: nobody would ever deliver it.
func TestNothingWaitsWithoutFederation(t *testing.T) {
	each(t, func(f *fixture) {
		f.Remote = nil
		f.send("1", message(carol, "C", `{}`))
		if got := f.sent(); got != nil {
			f.Errorf("%v waits", got)
		}
	})
}
