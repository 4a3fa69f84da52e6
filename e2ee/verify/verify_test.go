package verify

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

var (
	alice = Party{"@alice:one.example", "A"}
	bob   = Party{"@bob:two.example", "B"}

	aliceKeys = Keys{"ed25519:A": "alice's device", "ed25519:MASTERA": "alice's master"}
	bobKeys   = Keys{"ed25519:B": "bob's device", "ed25519:MASTERB": "bob's master"}
)

// talk is two sessions and what is under way to each of them.
type talk struct {
	t         *testing.T
	a, b      *Session
	toA, toB  []Message
	errA      error
	errB      error
	intercept func(to *Session, m Message) Message
}

// beginInRoom is begin in a room, where the request is the event $request.
func beginInRoom(t *testing.T) *talk {
	t.Helper()
	a, request := RequestInRoom(alice, bob.User, time.Now())
	a.Sent("$request")
	b, ready, err := AcceptInRoom(bob, alice.User, "$request", request.Content, time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &talk{t: t, a: a, b: b, toA: []Message{ready}}
}

func begin(t *testing.T) *talk {
	t.Helper()
	a, request := Request(alice, bob.User, time.Now())
	b, ready, err := Accept(bob, alice.User, request.Content, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &talk{t: t, a: a, b: b, toA: []Message{ready}}
}

// run delivers until nothing is under way.
func (k *talk) run() {
	for len(k.toA)+len(k.toB) > 0 {
		var more []Message
		var err error
		for _, m := range k.take(&k.toA) {
			more, err = k.a.Handle(m.Type, k.passed(k.a, m).Content)
			k.errA, k.toB = errors.Join(k.errA, err), append(k.toB, more...)
		}
		for _, m := range k.take(&k.toB) {
			more, err = k.b.Handle(m.Type, k.passed(k.b, m).Content)
			k.errB, k.toA = errors.Join(k.errB, err), append(k.toA, more...)
		}
	}
}

func (k *talk) take(from *[]Message) []Message {
	waiting := *from
	*from = nil
	return waiting
}

func (k *talk) passed(to *Session, m Message) Message {
	if k.intercept != nil {
		return k.intercept(to, m)
	}
	return m
}

// confirm has both users find the texts the same.
func (k *talk) confirm(aExpects, bExpects Keys) {
	var err error
	k.toB, err = k.a.Confirm(aliceKeys, aExpects)
	k.errA = errors.Join(k.errA, err)
	k.toA, err = k.b.Confirm(bobKeys, bExpects)
	k.errB = errors.Join(k.errB, err)
	k.run()
}

func (k *talk) wantCode(err error, code string) {
	k.t.Helper()
	var cancelled *Cancelled
	if !errors.As(err, &cancelled) || cancelled.Code != code {
		k.t.Errorf("got %v, not %s", err, code)
	}
	if k.a.Done() || k.b.Done() {
		k.t.Error("one side is through")
	}
}

func TestBothAgree(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) *talk{"to devices": begin, "in a room": beginInRoom} {
		t.Run(name, func(t *testing.T) { bothAgree(t, begin(t)) })
	}
}

func bothAgree(t *testing.T, k *talk) {
	k.run()
	if !k.a.Comparable() || !k.b.Comparable() || k.a.Other() != bob || k.b.Other() != alice {
		t.Fatalf("%v, %v", k.errA, k.errB)
	}
	if k.a.Decimals() != k.b.Decimals() || k.a.Emojis() != k.b.Emojis() {
		t.Error("they see different texts")
	}
	for _, n := range k.a.Decimals() {
		if n < 1000 || n > 9191 {
			t.Errorf("a number is %d", n)
		}
	}
	k.confirm(bobKeys, aliceKeys)
	if k.errA != nil || k.errB != nil || !k.a.Done() || !k.b.Done() {
		t.Fatalf("%v, %v", k.errA, k.errB)
	}
	if want := []id.KeyID{"ed25519:B", "ed25519:MASTERB"}; !slices.Equal(k.a.Proven(), want) {
		t.Errorf("proven are %v", k.a.Proven())
	}
}

// TestOneIsFaster has bob's proof arrive before alice has compared, and her key unknown to him but for the device's.
func TestOneIsFaster(t *testing.T) {
	k := begin(t)
	k.run()
	var err error
	if k.toA, err = k.b.Confirm(bobKeys, Keys{"ed25519:A": "alice's device"}); err != nil {
		t.Fatal(err)
	}
	k.run()
	if k.toB, err = k.a.Confirm(aliceKeys, bobKeys); err != nil {
		t.Fatal(err)
	}
	k.run()
	if !k.a.Done() || !k.b.Done() || !slices.Equal(k.b.Proven(), []id.KeyID{"ed25519:A"}) {
		t.Errorf("%v, %v, %v", k.errA, k.errB, k.b.Proven())
	}
}

// TestBothStart crosses two starts: alice's counts, since her name is the smaller.
func TestBothStart(t *testing.T) {
	k := begin(t)
	k.toA = append(k.toA, k.b.Start())
	k.run()
	if !k.a.Comparable() || !k.b.Comparable() || k.a.Decimals() != k.b.Decimals() || !k.a.weStarted {
		t.Fatalf("%v, %v", k.errA, k.errB)
	}
}

func TestOtherKeys(t *testing.T) {
	k := begin(t)
	k.run()
	k.confirm(Keys{"ed25519:B": "mallory's device"}, aliceKeys)
	k.wantCode(k.errA, CodeKey)
	k = begin(t)
	k.run()
	k.confirm(Keys{"ed25519:MASTERB": "bob's master"}, aliceKeys) // the device's own key is unknown
	k.wantCode(k.errA, CodeKey)
}

// TestSomebodyBetween exchanges the public keys on their way.
func TestSomebodyBetween(t *testing.T) {
	k := begin(t)
	mallory := newSession(alice, bob, "", time.Now())
	k.intercept = func(to *Session, m Message) Message {
		if m.Type == TypeKey {
			m.Content = bytes.Replace(bytes.Replace(m.Content, []byte(k.a.public), []byte(mallory.public), 1), []byte(k.b.public), []byte(mallory.public), 1)
		}
		return m
	}
	k.run()
	k.wantCode(k.errA, CodeCommitment) // bob was committed to his key

	k = begin(t)
	k.intercept = func(to *Session, m Message) Message {
		if m.Type == TypeKey && to == k.b {
			m.Content = bytes.Replace(m.Content, []byte(k.a.public), []byte(mallory.public), 1)
		}
		return m
	}
	k.run()
	if !k.a.Comparable() || !k.b.Comparable() || k.a.Decimals() == k.b.Decimals() {
		t.Error("only the texts can show it, and they do not")
	}
	k.confirm(bobKeys, aliceKeys) // even if the users don't look
	k.wantCode(k.errA, CodeKey)
}

func TestRefusals(t *testing.T) {
	now := time.Now()
	_, request := Request(alice, bob.User, now)
	for _, late := range []time.Duration{Freshness + time.Minute, -MaxAhead - time.Minute} {
		if _, _, err := Accept(bob, alice.User, request.Content, now.Add(late)); err == nil {
			t.Errorf("a request %s old is taken", late)
		}
	}
	if _, _, err := Accept(alice, alice.User, request.Content, now); err == nil {
		t.Error("a device talks to itself")
	}
	for what, broken := range map[string]struct{ kind, old, new, code string }{
		"an unknown method":     {TypeStart, method, "m.other", CodeMethod},
		"another agreement":     {TypeStart, keyAgreement, "curve25519", CodeMethod},
		"an unknown code":       {TypeAccept, macMethod, "hmac-sha256", CodeMethod},
		"a start of another":    {TypeStart, `"from_device":"A"`, `"from_device":"X"`, CodeMalformed},
		"a start without sense": {TypeStart, `"from_device":"A"`, `"from_device":5`, CodeMalformed},
		"a key that is none":    {TypeKey, `"key":"`, `"key":"A`, CodeMalformed},
		"not a ready":           {TypeReady, `"methods":["m.sas.v1"]`, `"methods":[]`, CodeMethod},
	} {
		k := begin(t)
		k.intercept = func(to *Session, m Message) Message {
			if m.Type == broken.kind {
				m.Content = bytes.Replace(m.Content, []byte(broken.old), []byte(broken.new), 1)
			}
			return m
		}
		k.run()
		err := errors.Join(k.errA, k.errB)
		if broken.kind == TypeKey {
			err = k.errB // alice's comes first
		}
		t.Log(what)
		k.wantCode(err, broken.code)
		if k.a.Comparable() || k.b.Comparable() {
			t.Errorf("%s: it went on", what)
		}
	}
	k := begin(t)
	if _, err := k.b.Handle(TypeMAC, k.b.content().message(TypeMAC).Content); err == nil {
		t.Error("a message out of sequence is taken")
	}
	if _, err := k.b.Confirm(bobKeys, aliceKeys); err == nil {
		t.Error("there was nothing to confirm")
	}
}

// TestInRoom looks at what goes through a room: no event names a transaction, all name the request, and what names
// another, or none, is not of this conversation.
func TestInRoom(t *testing.T) {
	k := beginInRoom(t)
	kinds := 0
	k.intercept = func(to *Session, m Message) Message {
		kinds++
		if InRoom(m.Content) != "$request" || bytes.Contains(m.Content, []byte("transaction_id")) {
			t.Errorf("%s is %s", m.Type, m.Content)
		}
		for _, foreign := range []string{
			strings.Replace(string(m.Content), "$request", "$other", 1),
			strings.Replace(string(m.Content), reference, "m.thread", 1),
			`{"transaction_id":"$request","code":"m.user"}`,
		} {
			if answers, err := to.Handle(TypeCancel, json.RawMessage(foreign)); answers != nil || err != nil || to.Ended() {
				t.Errorf("%s is taken: %v, %v", foreign, answers, err)
			}
		}
		return m
	}
	k.run()
	k.confirm(bobKeys, aliceKeys)
	if !k.a.Done() || !k.b.Done() || kinds != 9 {
		t.Errorf("%v, %v after %d events", k.errA, k.errB, kinds)
	}

	// A second device of theirs that answers too is not heard.
	k = beginInRoom(t)
	k.run()
	if answers, err := k.a.Handle(TypeReady, json.RawMessage(`{"from_device":"B2","methods":["m.sas.v1"],"m.relates_to":{"rel_type":"m.reference","event_id":"$request"}}`)); answers != nil || err != nil || !k.a.Comparable() {
		t.Errorf("a second device: %v, %v", answers, err)
	}
	// A conversation over messages to devices is not one in a room.
	k = begin(t)
	k.intercept = func(to *Session, m Message) Message {
		return Message{m.Type, bytes.Replace(m.Content, []byte(`"transaction_id":"`+k.a.ID()+`"`), []byte(`"m.relates_to":{"rel_type":"m.reference","event_id":"`+k.a.ID()+`"}`), 1)}
	}
	k.run()
	if k.a.Comparable() || k.b.Comparable() {
		t.Error("events of a room are taken for messages to a device")
	}
}

func TestRequestsInRoom(t *testing.T) {
	now := time.Now()
	_, request := RequestInRoom(alice, bob.User, now)
	if request.Type != "m.room.message" {
		t.Errorf("it is %s", request.Type)
	}
	if to, from, ok := Asks(request.Content); !ok || to != bob.User || from != alice.Device || From(request.Content) != alice.Device {
		t.Errorf("asks %s from %s, %v", to, from, ok)
	}
	for what, c := range map[string]struct {
		own    Party
		sender id.UserID
		event  id.EventID
		at     time.Time
		old    string
		new    string
		code   string
	}{
		"it is for somebody else": {own: Party{"@carol:h", "C"}, code: CodeMalformed},
		"it is one's own":         {own: bob, sender: bob.User, code: CodeMalformed},
		"it is no event":          {own: bob, event: "-", code: CodeMalformed},
		"it is too old":           {own: bob, at: now.Add(-Freshness), code: CodeTimeout},
		"it is from the future":   {own: bob, at: now.Add(MaxAhead + time.Second), code: CodeTimeout},
		"it has another method":   {own: bob, old: method, new: "m.other", code: CodeMethod},
		"it is another message":   {own: bob, old: MsgType, new: "m.text", code: CodeMalformed},
		"it names no device":      {own: bob, old: `"from_device":"A"`, new: `"from_device":""`, code: CodeMalformed},
	} {
		event := map[bool]id.EventID{true: "", false: "$request"}[c.event == "-"]
		content := json.RawMessage(strings.Replace(string(request.Content), c.old, c.new, 1))
		sender, at := cmp.Or(c.sender, alice.User), c.at
		if at.IsZero() {
			at = now
		}
		_, _, err := AcceptInRoom(c.own, sender, event, content, at, now)
		var cancelled *Cancelled
		if !errors.As(err, &cancelled) || cancelled.Code != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	at := now.Add(-time.Minute)
	s, _, err := AcceptInRoom(bob, alice.User, "$request", request.Content, at, now)
	if err != nil || !s.Expires().Equal(at.Add(Freshness)) {
		t.Errorf("%v, it ends %v", err, s.Expires())
	}
}

// TestOldCodes has one side offer, or choose, the old code only; both go by it, and else by the new one.
func TestOldCodes(t *testing.T) {
	both := `["` + macMethod + `","` + oldMACMethod + `"]`
	for _, c := range []struct{ kind, old, new, used string }{
		{"", "", "", macMethod},
		{TypeStart, both, `["` + oldMACMethod + `","` + macMethod + `"]`, macMethod},
		{TypeStart, both, `["` + oldMACMethod + `"]`, oldMACMethod},
		{TypeAccept, macMethod, oldMACMethod, oldMACMethod},
	} {
		k := begin(t)
		k.intercept = func(to *Session, m Message) Message {
			if m.Type == c.kind {
				if !bytes.Contains(m.Content, []byte(c.old)) {
					t.Errorf("%s is %s", m.Type, m.Content)
				}
				m.Content = bytes.Replace(m.Content, []byte(c.old), []byte(c.new), 1)
				if m.Type == TypeStart { // as if alice had sent it so
					k.a.start = canonical(m.Content)
				} else {
					k.b.macMethod = c.used
				}
			}
			return m
		}
		k.run()
		k.confirm(bobKeys, aliceKeys)
		if !k.a.Done() || !k.b.Done() || k.a.macMethod != c.used || k.b.macMethod != c.used {
			t.Errorf("%+v: %v, %v, by %s and %s", c, k.errA, k.errB, k.a.macMethod, k.b.macMethod)
		}
	}
}

// TestOldBase64 has codes that libolm made, as they were meant and as it wrote them.
func TestOldBase64(t *testing.T) {
	for meant, written := range map[string]string{
		"hVlmvInYESuI3ZxkOFhMriVqnGbLO730fDkftLY20kk": "hVlmbYnYblmIbG1JYkcxSllrY3hTbGxyWTNoVGJHeHk",
		"OeM9u7ZpmsLEKpU9/65aDcvWUXtuqSkoopEkjGfz1Lk": "OeM9ObZpWnDEbkRFYmtSRlltdFNSbGx0ZEZOU2JHeDA",
	} {
		sum, err := base64.RawStdEncoding.DecodeString(meant)
		if err != nil {
			t.Fatal(err)
		}
		if got := oldBase64(sum); got != written {
			t.Errorf("%s is written %s, not %s", meant, got, written)
		}
	}
}

// FuzzMessages gives one side any messages in any order; it never is through without the other's proof.
func FuzzMessages(f *testing.F) {
	a, request := Request(alice, bob.User, time.Now())
	start := a.Start()
	f.Add(TypeStart, []byte(start.Content), TypeKey, []byte(a.key().Content))
	f.Add(TypeRequest, []byte(request.Content), TypeMAC, []byte(`{"transaction_id":"x","mac":{},"keys":""}`))
	f.Add(TypeReady, []byte(`{"transaction_id":"x","from_device":"A","methods":["m.sas.v1"]}`), TypeDone, []byte(`{"transaction_id":"x"}`))
	f.Fuzz(func(t *testing.T, kind1 string, raw1 []byte, kind2 string, raw2 []byte) {
		for _, s := range []*Session{newSession(bob, alice, "x", time.Now()), newSession(bob, alice, a.transaction, time.Now())} {
			s.state = awaitStart
			for _, m := range []Message{{kind1, raw1}, {kind2, raw2}, {kind1, raw1}} {
				answers, err := s.Handle(m.Type, m.Content)
				for _, answer := range answers {
					if !json.Valid(answer.Content) {
						t.Errorf("%s is not JSON", answer.Type)
					}
				}
				if s.Comparable() {
					s.Decimals()
					s.Emojis()
					s.Confirm(bobKeys, aliceKeys)
				}
				if s.Done() || err == nil && s.Proven() != nil {
					t.Error("it is through by messages that nobody could make")
				}
			}
		}
		Accept(bob, alice.User, raw1, time.Now())
	})
}
