package interop

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/interop/peertest"
)

// tabs are browser profiles, each with one client of matrix-js-sdk.
type tabs struct {
	*peertest.Peer
	t *testing.T
}

// tab is one of them.
type tab struct {
	tabs
	name string
}

type args = peertest.Args

func browser(t *testing.T) tabs {
	t.Helper()
	const how = `run "npm ci --prefix browser" in homeserver/interop, and install Debian's chromium`
	chromium := os.Getenv("CHROMIUM")
	if chromium == "" {
		chromium = "/usr/bin/chromium"
	}
	peertest.Need(t, how, "node", chromium, "browser/node_modules/matrix-js-sdk/package.json")
	return tabs{Peer: peertest.Start(t, "node", "browser/drive.mjs"), t: t}
}

// login makes a new session of an account in a profile of its own.
func (b tabs) login(name string, u *hstest.User) tab {
	b.t.Helper()
	c := tab{tabs: b, name: name}
	c.do("login", args{"server": u.Server.URL, "user": u.ID, "password": "wordpass-" + u.ID.Localpart()}, nil)
	return c
}

func (c tab) do(name string, with args, value any) {
	c.t.Helper()
	if with == nil {
		with = args{}
	}
	with["client"] = c.name
	c.Do(name, with, value)
}

func (c tab) send(room id.RoomID, body string) (event id.EventID) {
	c.t.Helper()
	c.do("send", args{"room": room, "body": body}, &event)
	return event
}

type message struct {
	Event  id.EventID `json:"event"`
	Wire   string     `json:"wire"`
	Thread id.EventID `json:"thread"`
}

// reads waits until the client shows a message, which has to have come encrypted.
func (c tab) reads(room id.RoomID, body string) (m message) {
	c.t.Helper()
	c.do("awaitMessage", args{"room": room, "body": body}, &m)
	if m.Wire != "m.room.encrypted" {
		c.t.Errorf("%s reads %q from %s", c.name, body, m.Wire)
	}
	return m
}

// knows fails the test unless the client sees an encrypted room with these members.
func (c tab) knows(room id.RoomID, name string, members ...id.UserID) {
	c.t.Helper()
	for _, member := range members {
		c.do("awaitMember", args{"room": room, "user": member}, nil)
	}
	var seen struct {
		Encrypted, Shown bool
		Name             string
		Members          []id.UserID
	}
	c.do("look", args{"room": room}, &seen)
	slices.Sort(members)
	if !seen.Encrypted || !seen.Shown || seen.Name != name || !slices.Equal(seen.Members, members) {
		c.t.Errorf("%s sees %s as %+v", c.name, room, seen)
	}
}

// TestFreshLoginSeesEncryption is a session that begins when the room's state is far behind its timeline.
func TestFreshLoginSeesEncryption(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		clients := browser(t)
		user, other := s.Register("alice"), s.Register("bob")
		alice, bob := clients.login("alice", user), clients.login("bob", other)
		alice.do("setUp", nil, nil)
		var room id.RoomID
		alice.do("create", args{"name": "Plans", "invite": []id.UserID{other.ID}}, &room)
		bob.do("join", args{"room": room}, nil)
		alice.knows(room, "Plans", user.ID, other.ID)
		for i := range 30 {
			alice.send(room, fmt.Sprint("message ", i))
		}
		bob.reads(room, "message 29")

		again := clients.login("again", user)
		again.knows(room, "Plans", user.ID, other.ID)
		again.send(room, "from the new session")
		bob.reads(room, "from the new session")
		alice.reads(room, "from the new session")
		bob.send(room, "to the new session")
		again.reads(room, "to the new session")
		onlyCiphertext(t, user, room, 32)
	})
}

// TestStateOfAnAbsence is a client that was outside while the room became encrypted.
func TestStateOfAnAbsence(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		clients := browser(t)
		user, other := s.Register("alice"), s.Register("bob")
		room := user.CreateRoom(args{"preset": "public_chat", "name": "Before", "initial_state": []args{
			{"type": "m.room.history_visibility", "content": args{"history_visibility": "joined"}}}})
		path := "/v3/rooms/" + string(room)
		alice, bob := clients.login("alice", user), clients.login("bob", other)
		bob.do("join", args{"room": room}, nil)
		alice.do("awaitMember", args{"room": room, "user": other.ID}, nil)
		other.Must("POST", path+"/leave", nil, nil)
		// A client that believes to be in a room does not ask to join it.
		bob.do("awaitMember", args{"room": room, "user": other.ID, "membership": "leave"}, nil)
		user.Must("PUT", path+"/state/m.room.encryption/", args{"algorithm": "m.megolm.v1.aes-sha2"}, nil)
		user.Must("PUT", path+"/state/m.room.name/", args{"name": "After"}, nil)
		bob.do("join", args{"room": room}, nil)
		bob.knows(room, "After", user.ID, other.ID)
		bob.send(room, "back again")
		alice.reads(room, "back again")
		onlyCiphertext(t, user, room, 1)
	})
}

func TestFederatedJoinInABrowser(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		clients := browser(t)
		user, other := one.Register("alice"), two.Register("bob")
		alice, bob := clients.login("alice", user), clients.login("bob", other)
		var room id.RoomID
		alice.do("create", args{"name": "Far", "invite": []id.UserID{other.ID}}, &room)
		bob.do("join", args{"room": room, "via": []id.ServerName{one.Name}}, nil)
		bob.knows(room, "Far", user.ID, other.ID)
		alice.knows(room, "Far", user.ID, other.ID)
		bob.send(room, "from afar")
		alice.reads(room, "from afar")
		alice.send(room, "to afar")
		bob.reads(room, "to afar")

		// A message in a thread is found in it by the other side, and its root has it.
		root := alice.send(room, "root")
		bob.do("send", args{"room": room, "body": "in the thread", "thread": root}, nil)
		if m := alice.reads(room, "in the thread"); m.Thread != root {
			t.Errorf("a message in the thread of %s is in that of %q", root, m.Thread)
		}
		var threads []struct {
			Root   id.EventID
			Length int
		}
		alice.do("threads", args{"room": room}, &threads)
		if len(threads) != 1 || threads[0].Root != root || threads[0].Length != 1 {
			t.Errorf("threads are %+v", threads)
		}
		onlyCiphertext(t, user, room, 4)
		onlyCiphertext(t, other, room, 4)
	})
}

// TestEchoesComeAfterTheirAnswer is what a client relies on to know its own messages again.
func TestEchoesComeAfterTheirAnswer(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		clients := browser(t)
		user := s.Register("alice")
		alice := clients.login("alice", user)
		room := user.CreateRoom(args{"preset": "private_chat"})
		alice.do("join", args{"room": room}, nil)
		var early int
		if alice.do("echoes", args{"room": room, "count": 40}, &early); early > 1 {
			t.Errorf("%d of 40 messages came back before they were answered", early)
		}
	})
}
