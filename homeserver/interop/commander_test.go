package interop

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/interop/peertest"
)

// commander is a session of matrix-commander.
type commander struct {
	t       *testing.T
	program string
	dir     string
}

func loginCommander(t *testing.T, u *hstest.User, room id.RoomID) commander {
	t.Helper()
	const program = "python/.venv/bin/matrix-commander"
	peertest.Need(t, howPython, "./"+program)
	path, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	c := commander{t: t, program: path, dir: t.TempDir()}
	c.run("--login", "password", "--homeserver", u.Server.URL, "--user-login", string(u.ID), "--password", "wordpass-"+u.ID.Localpart(),
		"--device", "commander", "--room-default", string(room))
	c.run("--listen", "once") // only this makes its keys known
	return c
}

// run performs one command and returns what it prints.
func (c commander) run(args ...string) string {
	c.t.Helper()
	command := exec.Command(c.program, append([]string{"-c", filepath.Join(c.dir, "credentials.json"), "-s", filepath.Join(c.dir, "store")}, args...)...)
	command.Dir = c.dir
	out, err := command.CombinedOutput()
	if err != nil {
		c.t.Fatalf("matrix-commander %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestMatrixCommander is an encrypted conversation of matrix-commander with itself on another account, and its devices.
func TestMatrixCommander(t *testing.T) {
	full(t)
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		user, other := s.Register("alice"), s.Register("bob")
		// It refuses room IDs that name no server, as those of version 12.
		room := user.CreateRoom(args{"room_version": "11", "preset": "private_chat", "invite": []id.UserID{other.ID}, "initial_state": []args{
			{"type": "m.room.encryption", "content": args{"algorithm": "m.megolm.v1.aes-sha2"}}}})
		other.Must("POST", "/v3/rooms/"+string(room)+"/join", nil, nil)
		alice, bob := loginCommander(t, user, room), loginCommander(t, other, room)
		alice.run("-m", "good morning")
		if out := bob.run("--listen", "once"); !strings.Contains(out, "good morning") {
			t.Errorf("bob heard:\n%s", out)
		}
		bob.run("-m", "and to you")
		if out := alice.run("--listen", "once"); !strings.Contains(out, "and to you") {
			t.Errorf("alice heard:\n%s", out)
		}
		onlyCiphertext(t, user, room, 2)
		// It fails at the null that a device without a name has, here as with Synapse.
		user.Must("PUT", "/v3/devices/"+string(user.Device), args{"display_name": "first"}, nil)
		if out := alice.run("--devices"); !strings.Contains(out, "commander") || !strings.Contains(out, string(user.Device)) {
			t.Errorf("alice's devices:\n%s", out)
		}
	})
}
