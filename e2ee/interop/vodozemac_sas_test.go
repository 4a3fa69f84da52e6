package interop

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

// sasTalk is a verification between our session and theirs.
type sasTalk struct {
	h    *hub
	us   *our
	them *their
	s    *verify.Session
}

func newSASTalk(t *testing.T, p *peer, device id.DeviceID) *sasTalk {
	h := newHub(t)
	k := &sasTalk{h: h, us: newOur(h, alice, "OURS"), them: newTheir(h, p, bob, device)}
	k.us.bootstrap()
	k.them.bootstrap()
	k.us.flush(both...)
	k.them.do("track", args{"members": both}, nil)
	k.them.flush()
	return k
}

// send sends messages of ours.
func (k *sasTalk) send(messages ...verify.Message) {
	k.h.t.Helper()
	for _, m := range messages {
		k.h.send(alice, m.Type, k.h.json(args{"messages": args{string(bob): args{string(k.them.at.device): m.Content}}}))
	}
}

// receive takes in what they sent.
func (k *sasTalk) receive() (got []e2ee.Verification) {
	k.h.t.Helper()
	answer, err := k.us.ReceiveSync(e2ee.Sync{ToDevice: k.h.take(k.us.at)})
	must(k.h.t, err)
	return answer.Verifications
}

// step has both sides take in what waits and answer it.
func (k *sasTalk) step() error {
	k.h.t.Helper()
	var failed error
	for range maxRounds {
		k.them.sync()
		for _, v := range k.receive() {
			answers, err := k.s.Handle(v.Type, v.Content)
			failed = errors.Join(failed, err)
			k.send(answers...)
		}
	}
	return failed
}

type sasState struct {
	Presentable bool
	Decimals    []int
	Emoji       []string
	Cancelled   string
}

func (k *sasTalk) flow() args { return args{"user": alice, "flow": k.s.ID()} }

func (k *sasTalk) state() (s sasState) {
	k.h.t.Helper()
	k.them.do("sasState", k.flow(), &s)
	return s
}

// compare has the users look at the texts.
func (k *sasTalk) compare() {
	t := k.h.t
	t.Helper()
	their := k.state()
	if !k.s.Comparable() || !their.Presentable {
		t.Fatalf("there is nothing to compare: %+v", their)
	}
	decimals, emojis := k.s.Decimals(), k.s.Emojis()
	if !slices.Equal(their.Decimals, decimals[:]) {
		t.Errorf("they see %v, we %v", their.Decimals, decimals)
	}
	for i, e := range emojis {
		if len(their.Emoji) != len(emojis) || their.Emoji[i] != e.Symbol {
			t.Errorf("they see %v, we %v", their.Emoji, emojis)
			break
		}
	}
}

// agree ends a verification well.
func (k *sasTalk) agree() {
	t := k.h.t
	t.Helper()
	k.compare()
	var requests []request
	k.them.do("confirmSas", k.flow(), &requests)
	for _, r := range requests {
		if r.Type == "" {
			r.Type = "ToDevice" // the MAC; the other one is the signature
		}
		k.them.carry(&r)
	}
	own, err := k.us.VerificationKeys(alice, "OURS")
	must(t, err)
	expected, err := k.us.VerificationKeys(bob, k.s.Other().Device)
	must(t, err)
	answers, err := k.s.Confirm(own, expected)
	must(t, err)
	k.send(answers...)
	must(t, k.step())
	if !k.s.Done() || len(k.s.Proven()) != 2 {
		t.Fatalf("it did not end: %v proven, they are at %+v", k.s.Proven(), k.state())
	}
	k.them.flush()
	var identity struct{ Verified bool }
	k.them.do("identityState", args{"user": alice}, &identity)
	if !identity.Verified {
		t.Error("they have not verified us")
	}
}

func TestVodozemacSAS(t *testing.T) {
	p := startPeer(t)
	t.Run("we ask", func(t *testing.T) {
		k := newSASTalk(t, p, "ASKED")
		var m verify.Message
		k.s, m = verify.Request(verify.Party{User: alice, Device: "OURS"}, bob, time.Now())
		k.send(m)
		k.them.sync()
		var ready request
		k.them.do("acceptVerification", k.flow(), &ready)
		ready.Type = "ToDevice"
		k.them.carry(&ready)
		must(t, k.step()) // we start
		var accept request
		k.them.do("acceptSas", k.flow(), &accept)
		accept.Type = "ToDevice"
		k.them.carry(&accept)
		must(t, k.step())
		k.agree()
	})
	for _, code := range []string{"", verify.CodeText} {
		t.Run(fmt.Sprint("they ask ", code), func(t *testing.T) {
			k := newSASTalk(t, p, "ASKS")
			var asked struct{ Request request }
			k.them.do("requestVerification", args{"user": alice, "device": "OURS"}, &asked)
			asked.Request.Type = "ToDevice"
			k.them.carry(&asked.Request)
			got := k.receive()
			if len(got) != 1 || got[0].Type != verify.TypeRequest || got[0].Sender != bob {
				t.Fatalf("got %v", got)
			}
			var ready verify.Message
			var err error
			k.s, ready, err = verify.Accept(verify.Party{User: alice, Device: "OURS"}, bob, got[0].Content, time.Now())
			must(t, err)
			k.send(ready, k.s.Start())
			k.them.sync()
			var accept request
			k.them.do("acceptSas", k.flow(), &accept)
			accept.Type = "ToDevice"
			k.them.carry(&accept)
			must(t, k.step())
			if code == "" {
				k.agree()
				return
			}
			k.compare()
			k.send(k.s.Cancel(code))
			k.them.sync()
			if state := k.state(); state.Cancelled != code {
				t.Errorf("they are at %+v", state)
			}
		})
	}
}
