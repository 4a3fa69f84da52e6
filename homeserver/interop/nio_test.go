package interop

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/interop/peertest"
)

const howPython = `run "python/install full" in homeserver/interop`

// nioSession is a client of matrix-nio.
type nioSession struct {
	*peertest.Peer
	t    *testing.T
	name string
}

// nioPeer starts the program that the sessions of a test live in.
func nioPeer(t *testing.T) *peertest.Peer {
	t.Helper()
	const python = "python/.venv/bin/python"
	peertest.Need(t, howPython, "./"+python)
	program, err := filepath.Abs(python)
	if err != nil {
		t.Fatal(err)
	}
	return peertest.Start(t, program, "python/nio_peer.py")
}

func loginNio(t *testing.T, p *peertest.Peer, name string, u *hstest.User) nioSession {
	t.Helper()
	s := nioSession{Peer: p, t: t, name: name}
	s.do("login", args{"server": u.Server.URL, "user": u.ID, "password": "wordpass-" + u.ID.Localpart()}, nil)
	return s
}

func (s nioSession) do(name string, with args, value any) {
	s.t.Helper()
	if with == nil {
		with = args{}
	}
	with["client"] = s.name
	s.Do(name, with, value)
}

func (s nioSession) send(room id.RoomID, body string) {
	s.t.Helper()
	s.do("send", args{"room": room, "body": body}, nil)
}

func (s nioSession) reads(room id.RoomID, body string) {
	s.t.Helper()
	var m struct{ Decrypted bool }
	if s.do("read", args{"room": room, "body": body}, &m); !m.Decrypted {
		s.t.Errorf("%s reads %q unencrypted", s.name, body)
	}
}

// TestNioTalks is an encrypted conversation of two people with matrix-nio, one of them with two sessions.
func TestNioTalks(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		user, other := one.Register("alice"), two.Register("bob")
		p := nioPeer(t)
		alice, bob := loginNio(t, p, "alice", user), loginNio(t, p, "bob", other)
		room := user.CreateRoom(args{"name": "Plans", "preset": "private_chat", "invite": []id.UserID{other.ID}, "initial_state": []args{
			{"type": "m.room.encryption", "content": args{"algorithm": "m.megolm.v1.aes-sha2"}}}})
		bob.do("join", args{"room": room}, nil)
		for _, s := range []nioSession{alice, bob} {
			var seen struct {
				Encrypted bool
				Name      string
			}
			if s.do("look", args{"room": room, "members": []id.UserID{user.ID, other.ID}}, &seen); !seen.Encrypted || seen.Name != "Plans" {
				t.Errorf("%s sees %+v", s.name, seen)
			}
		}
		alice.do("know", args{"user": other.ID, "devices": 1}, nil)
		bob.do("know", args{"user": user.ID, "devices": 1}, nil)
		alice.send(room, "good morning")
		bob.reads(room, "good morning")
		bob.send(room, "and to you")
		alice.reads(room, "and to you")

		second := loginNio(t, p, "second", user)
		second.do("look", args{"room": room, "members": []id.UserID{user.ID, other.ID}}, nil)
		second.do("know", args{"user": other.ID, "devices": 1}, nil)
		bob.do("know", args{"user": user.ID, "devices": 2}, nil)
		bob.send(room, "to both")
		alice.reads(room, "to both")
		second.reads(room, "to both")
		onlyCiphertext(t, user, room, 3)
	})
}

// TestNioManagesItsAccount is what matrix-nio asks of devices and profiles, whose answers it checks against schemas.
func TestNioManagesItsAccount(t *testing.T) {
	hstest.Each(t, func(t *testing.T, server *hstest.Server) {
		user := server.Register("alice")
		p := nioPeer(t)
		alice := loginNio(t, p, "alice", user)
		nameless := server.Login("alice") // without a display name, as API users are
		type device struct {
			ID   id.DeviceID
			Name string
		}
		list := func() (all []device) {
			t.Helper()
			var raw []struct {
				ID   id.DeviceID
				Name *string
			}
			alice.do("devices", nil, &raw)
			for _, d := range raw {
				name := ""
				if d.Name != nil {
					name = *d.Name
				}
				all = append(all, device{d.ID, name})
			}
			return all
		}
		if got := list(); len(got) != 3 || !slices.Contains(got, device{nameless.Device, ""}) {
			t.Errorf("devices are %v", got)
		}
		alice.do("rename", args{"name": "workshop"}, nil)
		if got := list(); !slices.ContainsFunc(got, func(d device) bool { return d.Name == "workshop" }) {
			t.Errorf("after a change of name devices are %v", got)
		}
		alice.do("drop", args{"device": nameless.Device, "user": user.ID, "password": "wordpass-alice"}, nil)
		if got := list(); len(got) != 2 {
			t.Errorf("after one was deleted devices are %v", got)
		}
		var name string
		if alice.do("profile", args{"name": "Alice A."}, &name); name != "Alice A." {
			t.Errorf("the name is %q", name)
		}
	})
}
