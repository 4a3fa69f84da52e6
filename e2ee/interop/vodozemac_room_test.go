package interop

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

var both = []id.UserID{alice, bob}

func sessionOf(t testing.TB, event json.RawMessage) string {
	t.Helper()
	var e struct {
		Content struct {
			Session string `json:"session_id"`
		}
	}
	must(t, json.Unmarshal(event, &e))
	return e.Content.Session
}

// pairs are both directions of who writes.
func pairs(t *testing.T, p *peer, do func(t *testing.T, from, to member)) {
	t.Run("we write", func(t *testing.T) {
		h := newHub(t)
		do(t, newOur(h, alice, "OURS"), newTheir(h, p, bob, id.DeviceID("THEIRS "+t.Name())))
	})
	t.Run("they write", func(t *testing.T) {
		h := newHub(t)
		do(t, newTheir(h, p, alice, id.DeviceID("THEIRS "+t.Name())), newOur(h, bob, "OURS"))
	})
}

func TestVodozemacMegolm(t *testing.T) {
	pairs(t, startPeer(t), func(t *testing.T, from, to member) {
		var events []json.RawMessage
		sessions := map[string]int{}
		for i := range 150 {
			from.share(60, both...)
			event := from.encrypt(fmt.Sprint("message ", i))
			events = append(events, event)
			sessions[sessionOf(t, event)]++
		}
		if len(sessions) != 3 {
			t.Errorf("the key changed %d times", len(sessions)-1)
		}
		to.sync()
		for _, i := range rand.New(rand.NewPCG(11, 12)).Perm(len(events)) {
			reads(t, to, events[i], fmt.Sprint("message ", i))
		}
		reads(t, from, events[7], "message 7")
	})
}

// TestVodozemacConversation has both write in turn, so that the Olm sessions that carry the keys turn their
// ratchets too, with the key changing for every message and our files read anew in between.
func TestVodozemacConversation(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "TALKS")
	for i := range 30 {
		for _, pair := range [][2]member{{us, them}, {them, us}} {
			text := fmt.Sprintf("%s %d", pair[0].address().user, i)
			pair[0].share(1, both...)
			event := pair[0].encrypt(text)
			pair[1].sync()
			reads(t, pair[1], event, text)
		}
		us.restart()
	}
}

func TestVodozemacMembers(t *testing.T) {
	pairs(t, startPeer(t), func(t *testing.T, from, to member) {
		from.share(100, both...)
		first := from.encrypt("for both")
		from.share(100, from.address().user)
		without := from.encrypt("for one")
		from.share(100, both...)
		again := from.encrypt("for both again")
		if sessionOf(t, first) == sessionOf(t, without) {
			t.Error("the key did not change when a member left")
		}
		to.sync()
		reads(t, to, first, "for both")
		if _, _, err := to.read(without); err == nil {
			t.Error("who left reads on")
		}
		reads(t, to, again, "for both again")
	})
}

// TestVodozemacFallback has no one-time key left on the server.
func TestVodozemacFallback(t *testing.T) {
	pairs(t, startPeer(t), func(t *testing.T, from, to member) {
		h := hubOf(from)
		h.oneTime[to.address()] = map[string]json.RawMessage{}
		from.share(100, both...)
		event := from.encrypt("by the fallback key")
		to.sync()
		reads(t, to, event, "by the fallback key")
	})
}

func hubOf(m member) *hub {
	if o, ok := m.(*our); ok {
		return o.h
	}
	return m.(*their).h
}

func TestVodozemacWithheld(t *testing.T) {
	p := startPeer(t)
	t.Run("we withhold", func(t *testing.T) {
		h := newHub(t)
		us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "BLOCKED")
		us.share(100, both...)
		must(t, us.SetDeviceTrust(bob, "BLOCKED", e2ee.Blocked, ""))
		us.share(100, both...)
		event := us.encrypt("not for them")
		them.sync()
		if _, _, err := them.read(event); err == nil {
			t.Error("a blocked device reads")
		}
	})
	t.Run("they withhold", func(t *testing.T) {
		h := newHub(t)
		us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "BLOCKS")
		them.share(100, both...)
		them.do("blockDevice", args{"user": alice, "device": "OURS"}, nil)
		them.share(100, both...)
		event := them.encrypt("not for us")
		us.sync()
		_, _, err := us.read(event)
		if want := e2ee.ErrNoKey.Error() + ": its sender has blocked this device"; err == nil || err.Error() != want {
			t.Errorf("got %v, not %s", err, want)
		}
	})
}
