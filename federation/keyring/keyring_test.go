package keyring_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

func newKey(t *testing.T) sign.Key {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// origin is another server that publishes its keys.
type origin struct {
	name       id.ServerName
	key        sign.Key
	old        map[id.KeyID]any
	validUntil time.Time
	asked      atomic.Int32
}

func (o *origin) list(t *testing.T) []byte {
	raw, err := json.Marshal(map[string]any{
		"server_name": o.name, "valid_until_ts": o.validUntil.UnixMilli(), "old_verify_keys": o.old,
		"verify_keys": map[id.KeyID]any{o.key.ID: map[string]string{"key": sign.Base64(o.key.Public())}},
	})
	if err != nil {
		t.Error(err)
	}
	signed, err := sign.JSON(raw, string(o.name), o.key)
	if err != nil {
		t.Error(err)
	}
	return signed
}

func (o *origin) serve(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_matrix/key/v2/server" {
			o.asked.Add(1)
			_, _ = w.Write(o.list(t))
		}
	})
}

func newRing(t *testing.T, db *store.DB, n *federationtest.Net) *keyring.Keyring {
	key := newKey(t)
	return &keyring.Keyring{Server: "us.test", Key: key, Store: db, Client: n.Client(t, "us.test", key), Log: slog.New(slog.DiscardHandler)}
}

// message is an event of a server, signed at a time.
func message(t *testing.T, version id.RoomVersion, o *origin, at time.Time) *event.Event {
	t.Helper()
	v, _ := event.VersionOf(version)
	hashes := map[id.EventID]string{"$create": "x", "$member": "y"}
	e, err := event.Build(v, event.Proto{
		Type: "m.room.message", Sender: "@a:" + id.UserID(o.name), RoomID: "!r:" + id.RoomID(o.name), Content: json.RawMessage(`{"body":"hi"}`),
		PrevEvents: []id.EventID{"$create"}, AuthEvents: []id.EventID{"$create", "$member"}, Depth: 2, OriginServerTS: at.UnixMilli(), Hashes: hashes,
	}, o.name, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Event()
}

func TestVerifyRequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "one.test", "us.test")
		one := &origin{name: "one.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		retired := newKey(t)
		retired.ID = "ed25519:retired"
		one.old = map[id.KeyID]any{retired.ID: map[string]any{"key": sign.Base64(retired.Public()), "expired_ts": time.Now().Add(-time.Hour).UnixMilli()}}
		n.Serve("one.test", one.serve(t))
		ring := newRing(t, db, n)
		verify := func(ring *keyring.Keyring, key sign.Key, destination id.ServerName) error {
			r := xmatrix.Request{Method: "GET", URI: "/x"}
			text, err := xmatrix.Sign(r, "one.test", destination, key)
			if err != nil {
				t.Fatal(err)
			}
			h, err := xmatrix.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return ring.VerifyRequest(t.Context(), h, r)
		}
		for range 3 {
			if err := verify(ring, one.key, "us.test"); err != nil {
				t.Fatal(err)
			}
		}
		if err := verify(ring, retired, "us.test"); !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("a request signed with a retired key: %v", err)
		}
		forged := sign.Key{ID: one.key.ID, Private: newKey(t).Private}
		if err := verify(ring, forged, "us.test"); !errors.Is(err, sign.ErrBadSignature) {
			t.Errorf("a request signed with another key of the same name: %v", err)
		}
		if err := verify(ring, one.key, "other.test"); !errors.Is(err, xmatrix.ErrOtherDestination) {
			t.Errorf("a request for another server: %v", err)
		}
		for range 3 {
			if err := verify(ring, newKey(t), "us.test"); !errors.Is(err, keyring.ErrNoKey) {
				t.Errorf("a request signed with an unknown key: %v", err)
			}
		}
		if got := one.asked.Load(); got != 1 {
			t.Errorf("the keys were fetched %d times", got)
		}
		// Another process, or the same after a restart, has them from the database.
		n.Serve("one.test", nil)
		again := newRing(t, db, n)
		if err := verify(again, one.key, "us.test"); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}

func TestEventsNeedKeysOfTheirTime(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "one.test", "us.test")
		now := time.Now()
		retired := newKey(t)
		retired.ID = "ed25519:retired"
		// It says that its key is good for a year, which is cut to a week.
		one := &origin{name: "one.test", key: newKey(t), validUntil: now.Add(365 * 24 * time.Hour)}
		one.old = map[id.KeyID]any{retired.ID: map[string]any{"key": sign.Base64(retired.Public()), "expired_ts": now.Add(-time.Hour).UnixMilli()}}
		n.Serve("one.test", one.serve(t))
		ring := newRing(t, db, n)
		was := &origin{name: "one.test", key: retired}
		cases := []struct {
			what    string
			version id.RoomVersion
			by      *origin
			at      time.Time
			ok      bool
		}{
			{"a current key", "12", one, now, true},
			{"a retired key while it was valid", "12", was, now.Add(-2 * time.Hour), true},
			{"a retired key afterwards", "12", was, now, false},
			{"a retired key afterwards, in an old room", "4", was, now, true},
			{"a time within the week", "5", one, now.Add(6 * 24 * time.Hour), true},
			{"a time behind the week", "5", one, now.Add(8 * 24 * time.Hour), false},
			{"an unknown key", "4", &origin{name: "one.test", key: newKey(t)}, now, false},
			{"a server that does not answer", "12", &origin{name: "gone.test", key: newKey(t)}, now, false},
		}
		events := make([]*event.Event, len(cases))
		for i, c := range cases {
			if events[i] = message(t, "10", c.by, c.at); c.version != "12" {
				events[i] = message(t, c.version, c.by, c.at)
			}
		}
		results := ring.VerifyEvents(t.Context(), "", events)
		for i, c := range cases {
			if (results[i].Err == nil) != c.ok {
				t.Errorf("%s: %v", c.what, results[i].Err)
			}
			if c.ok != (results[i].Verified.Event() == events[i]) {
				t.Errorf("%s: got the event %v", c.what, results[i].Verified.Event())
			}
		}
	})
}

func TestNotaries(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "gone.test", "notary.test", "us.test")
		gone := &origin{name: "gone.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		notary := &origin{name: "notary.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		countersign := true
		mux := http.NewServeMux()
		mux.Handle("/_matrix/key/v2/server", notary.serve(t))
		mux.HandleFunc("/_matrix/key/v2/query", func(w http.ResponseWriter, _ *http.Request) {
			l := gone.list(t)
			if countersign {
				l, _ = sign.JSON(l, "notary.test", notary.key)
			}
			fmt.Fprintf(w, `{"server_keys":[%s]}`, l)
		})
		n.Serve("notary.test", mux)
		event1 := message(t, "10", gone, time.Now())

		countersign = false
		suspicious := newRing(t, db, n)
		suspicious.Notaries = []id.ServerName{"notary.test"}
		if r := suspicious.VerifyEvents(t.Context(), "", []*event.Event{event1}); r[0].Err == nil {
			t.Error("keys were taken that the notary had not signed")
		}
		countersign = true
		ring := newRing(t, db, n)
		ring.Notaries = []id.ServerName{"notary.test"}
		if r := ring.VerifyEvents(t.Context(), "", []*event.Event{event1}); r[0].Err != nil {
			t.Errorf("keys were not taken from the notary: %v", r[0].Err)
		}
	})
}

func TestNotarize(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "one.test", "us.test")
		one := &origin{name: "one.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		n.Serve("one.test", one.serve(t))
		ring := newRing(t, db, n)
		ask := func() []json.RawMessage {
			lists, err := ring.Notarize(t.Context(), map[id.ServerName]map[id.KeyID]int64{"one.test": nil, "gone.test": nil, "us.test": nil})
			if err != nil {
				t.Fatal(err)
			}
			return lists
		}
		for range 2 {
			lists := ask()
			if len(lists) != 2 {
				t.Fatalf("got %d lists", len(lists))
			}
			for _, l := range lists {
				if err := sign.VerifyJSON(l, "us.test", ring.Key.ID, ring.Key.Public()); err != nil {
					t.Error(err)
				}
				if strings.Contains(string(l), `"server_name":"one.test"`) {
					if err := sign.VerifyJSON(l, "one.test", one.key.ID, one.key.Public()); err != nil {
						t.Error(err)
					}
				}
			}
		}
		if got := one.asked.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
		n.Serve("one.test", nil)
		if got := len(ask()); got != 2 {
			t.Errorf("what is known of a server that has gone is not given: %d lists", got)
		}
	})
}

// TestNotarizeFetchesLittle has a stranger ask about many servers.
func TestNotarizeFetchesLittle(t *testing.T) {
	names := []string{"us.test"}
	wanted := map[id.ServerName]map[id.KeyID]int64{}
	for i := range 30 {
		name := id.ServerName(fmt.Sprintf("s%d.test", i))
		names, wanted[name] = append(names, string(name)), nil
	}
	n := federationtest.New(t, names...)
	var asked atomic.Int32
	for name := range wanted {
		one := &origin{name: name, key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		keys := one.serve(t)
		n.Serve(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); keys.ServeHTTP(w, r) }))
	}
	ring := newRing(t, storetest.Open(t, t.TempDir()+"/test.db"), n)
	lists, err := ring.Notarize(t.Context(), wanted)
	if got := asked.Load(); err != nil || got == 0 || got > 10 || len(lists) != int(got) {
		t.Errorf("%d servers were asked, %d lists given: %v", got, len(lists), err)
	}
}

// TestOlderListsShortenNothing has a notary give a list from before the one that is known.
func TestOlderListsShortenNothing(t *testing.T) {
	n := federationtest.New(t, "one.test", "notary.test", "us.test")
	now := time.Now()
	one := &origin{name: "one.test", key: newKey(t), validUntil: now.Add(5 * 24 * time.Hour)}
	notary := &origin{name: "notary.test", key: newKey(t), validUntil: now.Add(24 * time.Hour)}
	n.Serve("one.test", one.serve(t))
	mux := http.NewServeMux()
	mux.Handle("/_matrix/key/v2/server", notary.serve(t))
	mux.HandleFunc("/_matrix/key/v2/query", func(w http.ResponseWriter, _ *http.Request) {
		l, _ := sign.JSON(one.list(t), "notary.test", notary.key)
		fmt.Fprintf(w, `{"server_keys":[%s]}`, l)
	})
	n.Serve("notary.test", mux)
	db := storetest.Open(t, t.TempDir()+"/test.db")
	ring := newRing(t, db, n)
	ring.Notaries = []id.ServerName{"notary.test"}
	soon, later := message(t, "10", one, now.Add(4*24*time.Hour)), message(t, "10", one, now.Add(6*24*time.Hour))
	verify := func(e *event.Event) error { return ring.VerifyEvents(t.Context(), "", []*event.Event{e})[0].Err }
	if err := verify(soon); err != nil {
		t.Fatal(err)
	}
	n.Serve("one.test", nil)
	one.validUntil = now.Add(time.Hour) // what the notary has
	if err := verify(later); err == nil || notary.asked.Load() == 0 {
		t.Fatalf("an event from behind the end of the key: %v, the notary was asked %d times", err, notary.asked.Load())
	}
	if err := verify(soon); err != nil {
		t.Errorf("the older list has shortened the key's validity: %v", err)
	}
	ring = newRing(t, db, n) // from the database
	if err := verify(soon); err != nil {
		t.Errorf("the older list has shortened the key's validity for good: %v", err)
	}
}

// TestUnreachableKeys tells a server whose keys may be had a little later from one that lacks a key.
func TestUnreachableKeys(t *testing.T) {
	n := federationtest.New(t, "one.test", "gone.test", "us.test")
	one := &origin{name: "one.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
	n.Serve("one.test", one.serve(t))
	ring := newRing(t, storetest.Open(t, t.TempDir()+"/test.db"), n)
	results := ring.VerifyEvents(t.Context(), "", []*event.Event{
		message(t, "10", &origin{name: "gone.test", key: newKey(t)}, time.Now()), message(t, "10", &origin{name: "one.test", key: newKey(t)}, time.Now()),
	})
	if !errors.Is(results[0].Err, keyring.ErrUnreachable) || !errors.Is(results[1].Err, sign.ErrNotSigned) || errors.Is(results[1].Err, keyring.ErrUnreachable) {
		t.Errorf("got %v, and %v", results[0].Err, results[1].Err)
	}
}

func TestForeignListsAreChecked(t *testing.T) {
	n := federationtest.New(t, "one.test", "us.test")
	one := &origin{name: "one.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
	good := string(one.list(t))
	other := &origin{name: "two.test", key: one.key, validUntil: one.validUntil}
	many := &origin{name: "one.test", key: one.key, validUntil: one.validUntil, old: map[id.KeyID]any{}}
	for i := range 100 {
		many.old[id.KeyID(fmt.Sprintf("ed25519:%d", i))] = map[string]any{"key": sign.Base64(one.key.Public()), "expired_ts": 1}
	}
	for what, answer := range map[string]string{
		"a changed list":           strings.Replace(good, `"valid_until_ts":`, `"valid_until_ts":1`, 1),
		"another server's":         string(other.list(t)),
		"too many keys":            string(many.list(t)),
		"no list":                  `[]`,
		"a list without a key":     `{"server_name":"one.test","valid_until_ts":99999999999999,"verify_keys":{}}`,
		"a key of the wrong size":  `{"server_name":"one.test","valid_until_ts":99999999999999,"verify_keys":{"ed25519:a":{"key":"AAAA"}}}`,
		"nothing":                  ``,
		"an end of its first half": good[:len(good)/2],
	} {
		t.Run(what, func(t *testing.T) {
			db := storetest.Open(t, t.TempDir()+"/test.db")
			n.Serve("one.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
			ring := newRing(t, db, n)
			if r := ring.VerifyEvents(t.Context(), "", []*event.Event{message(t, "10", one, time.Now())}); r[0].Err == nil {
				t.Error("the list was believed")
			}
		})
	}
}

func TestOwnList(t *testing.T) {
	ring := &keyring.Keyring{Server: "us.test", Key: newKey(t)}
	retired := newKey(t)
	ring.OldKeys = []keyring.OldKey{{ID: "ed25519:retired", Public: retired.Public(), Expired: time.UnixMilli(1000)}}
	raw, err := ring.Own()
	if err != nil {
		t.Fatal(err)
	}
	if err := sign.VerifyJSON(raw, "us.test", ring.Key.ID, ring.Key.Public()); err != nil {
		t.Error(err)
	}
	var l struct {
		Until int64 `json:"valid_until_ts"`
		Old   map[id.KeyID]struct {
			Expired int64 `json:"expired_ts"`
		} `json:"old_verify_keys"`
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		t.Fatal(err)
	}
	if l.Until <= time.Now().UnixMilli() || l.Old["ed25519:retired"].Expired != 1000 {
		t.Errorf("got %s", raw)
	}
	// Our own events are checked without asking anyone.
	ours := message(t, "10", &origin{name: "us.test", key: ring.Key}, time.Now())
	retired.ID = "ed25519:retired"
	then := message(t, "10", &origin{name: "us.test", key: retired}, time.UnixMilli(1000))
	late := message(t, "10", &origin{name: "us.test", key: retired}, time.UnixMilli(1001))
	r := ring.VerifyEvents(context.Background(), "", []*event.Event{ours, then, late})
	if r[0].Err != nil || r[1].Err != nil || r[2].Err == nil {
		t.Errorf("signed now: %v; with the old key: %v; with it when it had expired: %v", r[0].Err, r[1].Err, r[2].Err)
	}
}

// TestOurFaultsAreNotTheirs: keys that could not be stored are no reason to mistrust their server, or to leave it alone.
func TestOurFaultsAreNotTheirs(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		n := federationtest.New(t, "one.test", "us.test")
		one := &origin{name: "one.test", key: newKey(t), validUntil: time.Now().Add(time.Hour)}
		n.Serve("one.test", one.serve(t))
		ring := newRing(t, db, n)
		ev := message(t, "10", one, time.Now())
		show := storetest.Hide(t, address, "server_key_lists")
		err := ring.VerifyEvents(t.Context(), "", []*event.Event{ev})[0].Err
		if err == nil || errors.Is(err, sign.ErrNotSigned) || errors.Is(err, keyring.ErrUnreachable) || errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("while the database fails: %v", err)
		}
		show()
		if err := ring.VerifyEvents(t.Context(), "", []*event.Event{ev})[0].Err; err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestWitnesses: whoever tells of events can show that a server used a key that is known for longer, and nothing else.
func TestWitnesses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "one.test", "two.test", "witness.test", "us.test")
		now := time.Now()
		retired := newKey(t)
		retired.ID = "ed25519:retired"
		one := &origin{name: "one.test", key: newKey(t), validUntil: now.Add(time.Hour)}
		one.old = map[id.KeyID]any{retired.ID: map[string]any{"key": sign.Base64(retired.Public()), "expired_ts": now.Add(-time.Hour).UnixMilli()}}
		n.Serve("one.test", one.serve(t))
		if r := newRing(t, db, n).VerifyEvents(t.Context(), "", []*event.Event{message(t, "10", one, now)}); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
		n.Serve("one.test", nil)
		later := now.Add(3 * time.Hour)
		invented, another := newKey(t), newKey(t)
		invented.ID, another.ID = "ed25519:invented", "ed25519:another"
		list := func(signers ...sign.Key) []byte {
			keys := map[id.KeyID]any{}
			for _, key := range signers {
				keys[key.ID] = map[string]string{"key": sign.Base64(key.Public())}
			}
			raw, _ := json.Marshal(map[string]any{"server_name": "one.test", "valid_until_ts": now.Add(24 * time.Hour).UnixMilli(), "verify_keys": keys})
			for _, key := range signers {
				raw, _ = sign.JSON(raw, "one.test", key)
			}
			return raw
		}
		var answer []byte
		asked := 0
		mux := http.NewServeMux()
		mux.HandleFunc("/_matrix/key/v2/query", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			fmt.Fprintf(w, `{"server_keys":[%s]}`, answer)
		})
		n.Serve("witness.test", mux)
		for _, c := range []struct {
			what    string
			list    []byte
			by      *origin
			witness id.ServerName
			ok      bool
		}{
			{"a list of keys nobody knows", list(invented), &origin{name: "one.test", key: invented}, "witness.test", false},
			{"a list signed with a retired key", list(retired, invented), &origin{name: "one.test", key: invented}, "witness.test", false},
			{"another key by a known name", list(sign.Key{ID: one.key.ID, Private: invented.Private}), one, "witness.test", false},
			{"nobody to ask", list(one.key), one, "", false},
			{"a newer list of a known key", list(one.key), one, "witness.test", true},
			{"a key that a known one vouches for", list(one.key, another), &origin{name: "one.test", key: another}, "witness.test", true},
		} {
			answer = c.list
			r := newRing(t, db, n).VerifyEvents(t.Context(), c.witness, []*event.Event{message(t, "10", c.by, later)})[0]
			if (r.Err == nil) != c.ok || c.ok != (r.Lacks == "") {
				t.Errorf("%s: %v, lacking a key of %q", c.what, r.Err, r.Lacks)
			}
		}
		asked = 0
		r := newRing(t, db, n).VerifyEvents(t.Context(), "witness.test", []*event.Event{message(t, "10", &origin{name: "two.test", key: newKey(t)}, now)})[0]
		if r.Lacks != "two.test" || !errors.Is(r.Err, keyring.ErrUnreachable) || asked != 0 {
			t.Errorf("a server of which nothing is known: %v, lacking %q, asked %d times", r.Err, r.Lacks, asked)
		}
	})
}

// TestWitnessesAreAskedLittle: there is a limit to how many servers a witness is asked about for one caller.
func TestWitnessesAreAskedLittle(t *testing.T) {
	n := federationtest.New(t, "witness.test", "us.test")
	db := storetest.Open(t, t.TempDir()+"/test.db")
	now := time.Now()
	var events []*event.Event
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 1200 {
			name := id.ServerName(fmt.Sprintf("s%d.test", i))
			o := &origin{name: name, key: newKey(t)}
			events = append(events, message(t, "10", o, now))
			err := tx.ServerKeys.Put(store.ServerKey{Server: name, KeyID: o.key.ID, Public: o.key.Public(), ValidUntil: 1, Fetched: now.UnixMilli()})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var queries, servers atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/_matrix/key/v2/query", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Servers map[string]any `json:"server_keys"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		queries.Add(1)
		servers.Add(int32(len(body.Servers)))
		_, _ = w.Write([]byte(`{"server_keys":[]}`))
	})
	n.Serve("witness.test", mux)
	ring := newRing(t, db, n)
	ring.VerifyEvents(t.Context(), "witness.test", events)
	if queries.Load() != 10 || servers.Load() != 1000 {
		t.Errorf("asked %d times about %d servers", queries.Load(), servers.Load())
	}
}
