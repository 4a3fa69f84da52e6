package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestPanicsEndNoProcess has an API without any of its parts, so that whatever it is handed makes it panic.
func TestPanicsEndNoProcess(t *testing.T) {
	a := &API{Server: "us.test", Log: slog.New(slog.DiscardHandler)}
	pdus := []json.RawMessage{json.RawMessage(`{"room_id":"!a:us.test"}`), json.RawMessage(`{"room_id":"!a:us.test"}`), json.RawMessage(`{"room_id":"!b:us.test"}`)}
	if out, late, _ := a.receiveEvents(t.Context(), "them.test", pdus); len(late) != 3 || len(out) != 0 {
		t.Errorf("events: %v, %v", out, late)
	}
	edus := []json.RawMessage{json.RawMessage(`{"edu_type":"m.receipt","content":{"!a:us.test":{}}}`), json.RawMessage(`{"edu_type":"m.direct_to_device","content":{}}`)}
	if late := a.receiveEDUs(t.Context(), "them.test", edus); len(late) != 1 {
		t.Errorf("data units: %v", late)
	}
}

// TestTransactionsAreTakenInTurn: one server has only some transactions worked on, whether it waits for them or not, and some
// more that wait.
func TestTransactionsAreTakenInTurn(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		sending := &us.api.sending
		var leaves []func()
		for range sendingFor {
			leave, err := sending.enter(t.Context(), string(them.name))
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		wait := func(n int) {
			sending.mu.Lock()
			defer sending.mu.Unlock()
			sending.waiting[string(them.name)] += n
		}
		send := func(txn string, want int) {
			t.Helper()
			if status, answer := them.request(us, http.MethodPut, "/_matrix/federation/v1/send/"+txn, `{"pdus":[],"edus":[]}`, nil); status != want {
				t.Errorf("%s: %d %v, want %d", txn, status, answer, want)
			}
		}
		wait(sendingWaiting)
		send("1", http.StatusTooManyRequests)
		wait(-sendingWaiting)
		for _, leave := range leaves {
			leave()
		}
		send("1", http.StatusOK)
		send("2", http.StatusOK)
		if sending.all != 0 {
			t.Errorf("%d turns are not given back", sending.all)
		}
	})
}

// TestWhoSendsMostMakesRoom: the oldest transaction of who has most worked on ends once others have no turn.
func TestWhoSendsMostMakesRoom(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		sending := &us.api.sending
		lost := 0
		for i := range sendingAll {
			if _, err := sending.enterLosable(t.Context(), fmt.Sprint(i/sendingFor), func() { lost++ }); err != nil {
				t.Fatal(err)
			}
		}
		if status, answer := them.request(us, http.MethodPut, "/_matrix/federation/v1/send/1", `{"pdus":[],"edus":[]}`, nil); status != http.StatusOK || lost != 1 {
			t.Errorf("%d %v, and %d were lost", status, answer, lost)
		}
	})
}

// TestNamesOfOneNetworkMakeRoom: whoever invents names fills the places of transactions for no other network, and a server of
// the same network takes none of another's.
func TestNamesOfOneNetworkMakeRoom(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		sending := &us.api.sending
		lost := map[string]int{}
		enter := func(ctx context.Context, who, network string) error {
			_, err := sending.enterFrom(ctx, who, network, func() { lost[network]++ })
			return err
		}
		if err := enter(t.Context(), "known", "198.51.100.1"); err != nil {
			t.Fatal(err)
		}
		for i := range sendingAll - 1 {
			if err := enter(t.Context(), fmt.Sprint("invented", i), "192.0.2.1"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // who would have to wait does not
		if err := enter(ctx, "invented", "192.0.2.1"); err == nil || len(lost) != 0 {
			t.Errorf("one more name: %v, and %v were lost", err, lost)
		}
		if err := enter(ctx, "newcomer", "203.0.113.1"); err != nil || lost["192.0.2.1"] != 1 || len(lost) != 1 {
			t.Errorf("a newcomer: %v, and %v were lost", err, lost)
		}
		status, answer := them.request(us, http.MethodPut, "/_matrix/federation/v1/send/1", `{"pdus":[],"edus":[]}`, nil)
		if status != http.StatusOK || lost["192.0.2.1"] != 2 || len(lost) != 1 {
			t.Errorf("%d %v, and %v were lost", status, answer, lost)
		}
	})
}

func TestEventsWithoutARoomAreNamed(t *testing.T) {
	rooms, refused := byRoom([]json.RawMessage{
		json.RawMessage(`{"room_id":7,"event_id":"$a:them.test"}`), json.RawMessage(`{"event_id":"$b:them.test"}`), json.RawMessage(`{"event_id":8}`),
		json.RawMessage(`9`), json.RawMessage(`{"room_id":"!r:them.test","event_id":"$c:them.test"}`),
	})
	if len(rooms) != 1 || len(refused) != 2 || refused["$a:them.test"].Error == "" || refused["$b:them.test"].Error == "" {
		t.Errorf("got %v, %v", rooms, refused)
	}
}

// TestTooLargeUnits has one unit that is too large between others.
func TestTooLargeUnits(t *testing.T) {
	a := &API{Server: "us.test", Log: slog.New(slog.DiscardHandler), Keys: &keys.Service{Server: "us.test", Store: storetest.Open(t, t.TempDir()+"/test.db")}}
	unit := func(txn string, size int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"edu_type":"m.direct_to_device","content":{"sender":"@b:them.test","type":"t","message_id":%q,"messages":{"@a:us.test":{"*":{"x":%q}}}}}`, txn, strings.Repeat("x", size)))
	}
	if late := a.receiveEDUs(t.Context(), "them.test", []json.RawMessage{unit("1", maxEDU), unit("2", 100)}); len(late) != 0 {
		t.Fatal(late)
	}
	for txn, want := range map[string]bool{"1": false, "2": true} {
		err := a.Keys.Store.View(t.Context(), func(tx *store.Tx) error {
			_, known, err := tx.Requests.Answer(store.RequestKey{User: "@b:them.test", Scope: "m.direct_to_device", TxnID: txn})
			if known != want {
				t.Errorf("unit %s was taken: %v", txn, known)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestWhatComesAgain tells what is tried again from what is a verdict.
func TestWhatComesAgain(t *testing.T) {
	for _, err := range []error{store.ErrClosed, store.ErrUnavailable, room.ErrBusy, keyring.ErrUnreachable, context.DeadlineExceeded, errors.New("a bug")} {
		if !ours(fmt.Errorf("receive: %w", err)) {
			t.Errorf("%v is a verdict", err)
		}
	}
	for _, err := range []error{nil, room.ErrEventNotFound, room.ErrUnreachable, room.ErrForbidden, store.ErrText} {
		if ours(err) {
			t.Errorf("%v is tried again", err)
		}
	}
}
