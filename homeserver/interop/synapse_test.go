package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/interop/peertest"
)

// synapse is a Synapse that federates with the servers under test.
type synapse struct {
	*hstest.Server // for its users
	Name           id.ServerName

	t       *testing.T
	dir     string
	process *exec.Cmd
}

const synapseConfig = `
server_name: "NAME"
pid_file: DIR/pid
signing_key_path: DIR/signing.key
media_store_path: DIR/media
log_config: DIR/log.yaml
report_stats: false
database: {name: sqlite3, args: {database: DIR/homeserver.db}}
listeners:
  - {port: CLIENT, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{names: [client]}]}
  - {port: FEDERATION, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{names: [federation]}]}
tls_certificate_path: DIR/tls.crt
tls_private_key_path: DIR/tls.key
federation_custom_ca_list: [DIR/ca.crt]
ip_range_blacklist: []
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
macaroon_secret_key: test
form_secret: test
registration_shared_secret: test
rc_message: {per_second: 10000, burst_count: 10000}
rc_registration: {per_second: 10000, burst_count: 10000}
rc_login: {address: {per_second: 10000, burst_count: 10000}, account: {per_second: 10000, burst_count: 10000}}
rc_joins: {local: {per_second: 10000, burst_count: 10000}, remote: {per_second: 10000, burst_count: 10000}}
rc_invites: {per_room: {per_second: 10000, burst_count: 10000}, per_user: {per_second: 10000, burst_count: 10000}, per_issuer: {per_second: 10000, burst_count: 10000}}
rc_federation: {window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}
`

const synapseLog = `
version: 1
disable_existing_loggers: false
formatters: {plain: {format: "%(levelname)s %(name)s %(message)s"}}
handlers: {file: {class: logging.FileHandler, filename: DIR/log, formatter: plain}}
loggers: {synapse.access: {level: WARNING}}
root: {level: INFO, handlers: [file]}
`

// startSynapse starts one whose certificates the server under test trusts, and that trusts its own.
func startSynapse(t *testing.T, of *hstest.Server) *synapse {
	t.Helper()
	peertest.Need(t, howPython, "./python/.synapse/bin/python")
	dir := t.TempDir()
	of.WriteTLS(dir)
	client, federation := freePort(t), freePort(t)
	s := &synapse{Name: id.ServerName("127.0.0.1:" + federation), Server: hstest.At(t, "http://127.0.0.1:"+client), t: t, dir: dir}
	fill := strings.NewReplacer("NAME", string(s.Name), "DIR", dir, "CLIENT", client, "FEDERATION", federation)
	for name, text := range map[string]string{"homeserver.yaml": synapseConfig, "log.yaml": synapseLog} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fill.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.run("--generate-keys")
	s.start()
	t.Cleanup(s.kill)
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *synapse) command(args ...string) *exec.Cmd {
	s.t.Helper()
	python, err := filepath.Abs("python/.synapse/bin/python")
	if err != nil {
		s.t.Fatal(err)
	}
	c := exec.Command(python, append([]string{"-m", "synapse.app.homeserver", "-c", filepath.Join(s.dir, "homeserver.yaml")}, args...)...)
	c.Dir = s.dir
	return c
}

func (s *synapse) run(args ...string) {
	s.t.Helper()
	if out, err := s.command(args...).CombinedOutput(); err != nil {
		s.t.Fatalf("synapse %v: %v\n%s", args, err, out)
	}
}

// start starts the process and waits until it answers.
func (s *synapse) start() {
	s.t.Helper()
	var said bytes.Buffer
	s.process = s.command()
	s.process.Stderr, s.process.Stdout = &said, &said
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.until("its answer", func() bool {
		answer, err := http.Get(s.URL + "/_matrix/client/versions")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// kill ends the process without a word to it.
func (s *synapse) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGKILL)
	_ = s.process.Wait()
	s.process = nil
	if s.t.Failed() {
		log, err := os.ReadFile(filepath.Join(s.dir, "log"))
		if err != nil {
			s.t.Error(err)
		}
		for line := range strings.Lines(string(log)) {
			if !strings.HasPrefix(line, "INFO") {
				s.t.Logf("Synapse: %s", line)
			}
		}
	}
}

// until waits for what another process does.
func (s *synapse) until(what string, done func() bool) {
	s.t.Helper()
	until(s.t, what, done)
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("two minutes passed without %s", what)
		case <-again.C:
		}
	}
}

// reads waits until a user is shown a text.
func reads(u *hstest.User, text string) {
	u.Await(text, func(answer []byte) bool { return bytes.Contains(answer, []byte(strconv.Quote(text))) })
}

// redacted waits until a user is shown an event without its content.
func redacted(t *testing.T, u *hstest.User, room id.RoomID, event id.EventID) {
	t.Helper()
	until(t, fmt.Sprintf("%s redacted for %s", event, u.ID), func() bool {
		status, body := u.Do("GET", "/v3/rooms/"+url.PathEscape(string(room))+"/event/"+url.PathEscape(string(event)), nil)
		var ev struct {
			Content map[string]any
		}
		return status == 200 && json.Unmarshal(body, &ev) == nil && len(ev.Content) == 0
	})
}

func say(u *hstest.User, room id.RoomID, text string) id.EventID {
	return u.Send(room, "m.room.message", args{"msgtype": "m.text", "body": text})
}

// awaitOutside waits until a user is told that they are not in a room any more.
func awaitOutside(u *hstest.User, room id.RoomID) {
	u.Await("being outside of "+string(room), func(answer []byte) bool {
		var told struct {
			Rooms struct{ Leave map[id.RoomID]any }
		}
		return json.Unmarshal(answer, &told) == nil && told.Rooms.Leave[room] != nil
	})
}

// TestSynapse goes through what people do in rooms of both servers, in rooms of each version and of either server.
func TestSynapse(t *testing.T) {
	full(t)
	ours := hstest.NewFederating(t)
	theirs := startSynapse(t, ours)
	alice, carol := ours.Register("alice"), ours.Register("carol")
	bob, dave := theirs.Register("bob"), theirs.Register("dave")
	for _, version := range []string{"10", "11", "12"} {
		t.Run("ours/"+version, func(t *testing.T) { talkInRooms(t, version, alice, carol, bob, dave, ours.Name) })
		t.Run("theirs/"+version, func(t *testing.T) { talkInRooms(t, version, bob, dave, alice, carol, theirs.Name) })
	}
	t.Run("keys", func(t *testing.T) { claimKeys(t, alice, bob); claimKeys(t, bob, alice) })
	t.Run("outage", func(t *testing.T) { outage(t, ours, theirs, alice, bob) })
}

// talkInRooms has the owner and a second user on one server, the guest and another on the other.
func talkInRooms(t *testing.T, version string, owner, second, guest, other *hstest.User, via id.ServerName) {
	room := owner.CreateRoom(args{"room_version": version, "preset": "private_chat", "name": "Both", "invite": []id.UserID{guest.ID}})
	path := "/v3/rooms/" + url.PathEscape(string(room))
	join := func(u *hstest.User) {
		t.Helper()
		u.Must("POST", "/v3/join/"+url.PathEscape(string(room))+"?server_name="+url.QueryEscape(string(via))+"&via="+url.QueryEscape(string(via)), nil, nil)
	}
	guest.Await("the invite", func(answer []byte) bool { return bytes.Contains(answer, []byte(room)) })
	join(guest)
	owner.AwaitMembership(room, guest.ID, "join")
	first := say(owner, room, "from the owner "+version)
	reads(guest, "from the owner "+version)
	reply := say(guest, room, "from the guest "+version)
	reads(owner, "from the guest "+version)

	// Redactions: of one's own, and of somebody else's with power.
	owner.Must("PUT", path+"/redact/"+url.PathEscape(string(first))+"/r1", args{}, nil)
	redacted(t, guest, room, first)
	owner.Must("PUT", path+"/redact/"+url.PathEscape(string(reply))+"/r2", args{}, nil)
	redacted(t, guest, room, reply)
	mine := say(guest, room, "to be taken back "+version)
	reads(owner, "to be taken back "+version)
	guest.Must("PUT", path+"/redact/"+url.PathEscape(string(mine))+"/r3", args{}, nil)
	redacted(t, owner, room, mine)

	// An invite that is taken back, one that is refused, a ban that holds and one that ends.
	owner.Must("POST", path+"/invite", args{"user_id": other.ID}, nil)
	other.Await("the invite", func(answer []byte) bool { return bytes.Contains(answer, []byte(room)) })
	owner.Must("POST", path+"/kick", args{"user_id": other.ID}, nil)
	awaitOutside(other, room)
	if status, body := other.Do("POST", "/v3/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(via)), nil); status != http.StatusForbidden {
		t.Errorf("a join on an invite that was taken back: %d %s", status, body)
	}
	owner.Must("POST", path+"/invite", args{"user_id": second.ID}, nil)
	second.Must("POST", path+"/join", nil, nil)
	guest.AwaitMembership(room, second.ID, "join")
	owner.Must("POST", path+"/ban", args{"user_id": guest.ID, "reason": "a test"}, nil)
	awaitOutside(guest, room)
	if status, body := guest.Do("POST", "/v3/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(via)), nil); status != http.StatusForbidden {
		t.Errorf("a join of who is banned: %d %s", status, body)
	}
	owner.Must("POST", path+"/unban", args{"user_id": guest.ID}, nil)
	owner.Must("POST", path+"/invite", args{"user_id": guest.ID}, nil)
	until(t, "the second join", func() bool {
		status, _ := guest.Do("POST", "/v3/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(via)), nil)
		return status == http.StatusOK
	})
	owner.AwaitMembership(room, guest.ID, "join")
	say(guest, room, "back "+version)
	reads(second, "back "+version)
	guest.Must("POST", path+"/leave", nil, nil)
	owner.AwaitMembership(room, guest.ID, "leave")
}

// claimKeys uploads keys of one user, and asks for them and claims one as the other, whose server is another.
func claimKeys(t *testing.T, of, by *hstest.User) {
	t.Helper()
	room := of.CreateRoom(args{"preset": "private_chat", "invite": []id.UserID{by.ID}})
	until(t, "a join", func() bool {
		status, _ := by.Do("POST", "/v3/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(of.ID.Server())), nil)
		return status == http.StatusOK
	})
	of.AwaitMembership(room, by.ID, "join")
	device, keyID := string(of.Device), "curve25519:AAAAHQ"
	of.Must("POST", "/v3/keys/upload", args{
		"device_keys": args{"user_id": of.ID, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
			"keys":       args{"curve25519:" + device: "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI", "ed25519:" + device: "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI"},
			"signatures": args{string(of.ID): args{"ed25519:" + device: "dSO80A01XiigH3uBiDVx/EjzaoycHcjq9lfQX0uWsqxl2giMIiSPR8a4d291W1ihKJL/a+myXS367WT6NAIcBA"}}},
		"one_time_keys": args{keyID: "/qyvZvwjiTxGdGU0RCguDCLeR+nmsb3FfNG3/Ve4vU8"},
	}, nil)
	until(t, "the keys", func() bool {
		var seen struct {
			Keys map[id.UserID]map[string]json.RawMessage `json:"device_keys"`
		}
		by.Must("POST", "/v3/keys/query", args{"device_keys": args{string(of.ID): []string{}}}, &seen)
		return seen.Keys[of.ID][device] != nil
	})
	claim := func() string {
		var got struct {
			Keys map[id.UserID]map[string]map[string]any `json:"one_time_keys"`
		}
		by.Must("POST", "/v3/keys/claim", args{"one_time_keys": args{string(of.ID): args{device: "curve25519"}}}, &got)
		key, _ := got.Keys[of.ID][device][keyID].(string)
		return key
	}
	if key := claim(); key != "/qyvZvwjiTxGdGU0RCguDCLeR+nmsb3FfNG3/Ve4vU8" {
		t.Errorf("the claim of a key of %s is answered by %q", of.ID, key)
	}
	if key := claim(); key != "" {
		t.Errorf("a key of %s is given out twice", of.ID)
	}
	by.Must("PUT", "/v3/sendToDevice/com.example.test/"+device, args{"messages": args{string(of.ID): args{device: args{"text": "to the device of " + string(of.ID)}}}}, nil)
	reads(of, "to the device of "+string(of.ID))
}

// outage has each server away while the other's user talks.
func outage(t *testing.T, ours *hstest.Server, theirs *synapse, alice, bob *hstest.User) {
	room := alice.CreateRoom(args{"preset": "private_chat", "invite": []id.UserID{bob.ID}})
	until(t, "a join", func() bool {
		status, _ := bob.Do("POST", "/v3/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(ours.Name)), nil)
		return status == http.StatusOK
	})
	alice.AwaitMembership(room, bob.ID, "join")
	if err := ours.Stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		say(bob, room, fmt.Sprint("while ours is away ", i))
	}
	ours.Start()
	say(alice, room, "ours is back") // wakes a server that waits to try again
	reads(bob, "ours is back")
	for i := range 5 {
		reads(alice, fmt.Sprint("while ours is away ", i))
	}
	theirs.kill()
	for i := range 5 {
		say(alice, room, fmt.Sprint("while theirs is away ", i))
	}
	theirs.start()
	say(bob, room, "theirs is back")
	reads(alice, "theirs is back")
	for i := range 5 {
		reads(bob, fmt.Sprint("while theirs is away ", i))
	}
}
