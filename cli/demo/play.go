package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What is said. None of it may be found on a server.
const (
	greeting  = "Good morning Bob, the merger is on for Thursday."
	reply     = "Understood Alice. I keep it to myself until then."
	missed    = "Bob, you were away: it moved to Friday, nine sharp."
	farewell  = "Back again. Friday at nine, I will be there."
	document  = "Confidential terms: eleven million, payable in spring.\n"
	fileName  = "secret-terms.txt"
	control   = "This sentence is not encrypted on purpose, so that the search has something to find."
	passwordA = "correct-horse-alice-1"
	passwordB = "battery-staple-bob-2"
)

// stage is the two servers and the two people.
type stage struct {
	dir        string
	servers    []*server
	alice, bob *person
	room       string
	plainRoom  string
}

func newStage(dir, binary string) (*stage, error) {
	ca, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	one, err := newServer("one", "127.0.0.1", dir, binary, ca)
	if err != nil {
		return nil, err
	}
	two, err := newServer("two", "localhost", dir, binary, ca)
	if err != nil {
		return nil, err
	}
	someone := func(name, password string, s *server) *person {
		return &person{name: name, user: "@" + name + ":" + s.name, password: password, home: filepath.Join(dir, name),
			binary: binary, ca: ca.file, server: s}
	}
	return &stage{dir: dir, servers: []*server{one, two},
		alice: someone("alice", passwordA, one), bob: someone("bob", passwordB, two)}, nil
}

// close stops what still runs.
func (s *stage) close() {
	for _, p := range []*person{s.alice, s.bob} {
		if p.chatting != nil {
			report(p.chatting.close())
		}
	}
	for _, server := range s.servers {
		report(server.stop())
	}
}

func report(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
	}
}

func (s *stage) play(ctx context.Context) error {
	for _, act := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Two servers start, each for its own domain, and federate over TLS.", s.startServers},
		{"Alice makes an account on one, Bob on two.", s.register},
		{"Alice creates an encrypted room and invites Bob, who joins.", s.meet},
		{"Both write and read.", s.talk},
		{"They compare fingerprints; their messages are green from now on.", s.verify},
		{"Alice sends a file, Bob decrypts it.", s.sendFile},
		{"Bob's server restarts while his chat is open and Alice writes; then his client restarts.", s.restart},
		{"The conversation, as each sees it:", s.print},
		{"Databases, media and logs of both servers are searched for what was said.", s.inspect},
	} {
		fmt.Printf("\n== %s\n", act.title)
		if err := act.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startServers(ctx context.Context) error {
	for _, server := range s.servers {
		if err := server.start(ctx); err != nil {
			return err
		}
		fmt.Printf("   %s is %s\n", server.label, server.name)
	}
	return nil
}

func (s *stage) register(ctx context.Context) error {
	for _, p := range []*person{s.alice, s.bob} {
		if err := p.register(ctx); err != nil {
			return err
		}
		fmt.Printf("   %s\n", p.user)
	}
	return nil
}

func (s *stage) meet(ctx context.Context) error {
	var made struct {
		Room string `json:"room_id"`
	}
	if err := s.alice.ask(ctx, "", &made, "create", "Plans", "--invite", s.bob.user); err != nil {
		return err
	}
	s.room = made.Room
	fmt.Printf("   the room is %s\n", s.room)
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := until(wait, "Bob is invited", func() (bool, error) {
		var rooms []struct {
			Room       string `json:"room_id"`
			Membership string `json:"membership"`
		}
		err := s.bob.ask(wait, "", &rooms, "rooms")
		for _, r := range rooms {
			if r.Room == s.room && r.Membership == "invite" {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		return err
	}
	if _, err := s.bob.do(ctx, "", "join", s.room, "--via", s.servers[0].name); err != nil {
		return err
	}
	if err := s.alice.ask(ctx, "", &made, "create", "Lobby", "--plain"); err != nil {
		return err
	}
	s.plainRoom = made.Room
	_, err = s.alice.do(ctx, control, "send", s.plainRoom)
	return err
}

func (s *stage) talk(ctx context.Context) error {
	chat, err := s.bob.openChat(ctx, s.room)
	if err != nil {
		return err
	}
	if err := s.alice.send(ctx, s.room, greeting); err != nil {
		return err
	}
	m, err := chat.wait(ctx, func(m message) bool { return m.Body == greeting })
	if err != nil {
		return err
	}
	if !m.Encrypted || m.Trust == "red" {
		return fmt.Errorf("Bob got the greeting, but not as it should be: %+v", m)
	}
	if err := chat.write(ctx, reply); err != nil {
		return err
	}
	if m, err = s.alice.waitFor(ctx, s.room, func(m message) bool { return m.Body == reply }); err != nil {
		return err
	}
	fmt.Printf("   Alice reads Bob's answer, which is %s: %s\n", m.Trust, m.Reason)
	return chat.close()
}

// verify compares fingerprints as two people would by telephone.
func (s *stage) verify(ctx context.Context) error {
	for _, pair := range [][2]*person{{s.alice, s.bob}, {s.bob, s.alice}} {
		var other struct {
			Device      string `json:"device_id"`
			Fingerprint string `json:"fingerprint"`
		}
		if err := pair[1].ask(ctx, "", &other, "keys", "show"); err != nil {
			return err
		}
		if _, err := pair[0].do(ctx, "", "keys", "verify", pair[1].user, other.Device, "--fingerprint", other.Fingerprint); err != nil {
			return err
		}
		fmt.Printf("   %s compared %s's: %s\n", pair[0].name, pair[1].name, other.Fingerprint)
	}
	m, err := s.alice.waitFor(ctx, s.room, func(m message) bool { return m.Body == reply })
	if err == nil && m.Trust != "green" {
		err = fmt.Errorf("Bob's message is not green after the verification: %+v", m)
	}
	return err
}

func (s *stage) sendFile(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(s.alice.home, fileName), []byte(document), 0o600); err != nil {
		return fmt.Errorf("writing the file: %w", err)
	}
	defer os.Remove(filepath.Join(s.alice.home, fileName))
	if _, err := s.alice.do(ctx, "", "upload", s.room, fileName); err != nil {
		return err
	}
	m, err := s.bob.waitFor(ctx, s.room, func(m message) bool { return m.Kind == "file" })
	if err != nil {
		return err
	}
	got, err := s.bob.do(ctx, "", "download", s.room, m.Event, "--output", "-")
	if err != nil {
		return err
	}
	if !bytes.Equal(got, []byte(document)) {
		return errors.New("Bob's copy of the file differs from Alice's")
	}
	fmt.Printf("   Bob has it, %d bytes, lock %s\n", len(got), m.Trust)
	return nil
}

// restart stops Bob's server under his open chat, which has to get over it by itself, and then his client.
func (s *stage) restart(ctx context.Context) error {
	two := s.servers[1]
	chat, err := s.bob.openChat(ctx, s.room)
	if err != nil {
		return err
	}
	if _, err := chat.wait(ctx, func(m message) bool { return m.Body == reply }); err != nil {
		return err
	}
	if err := two.stop(); err != nil {
		return err
	}
	if err := s.alice.send(ctx, s.room, missed); err != nil {
		return err
	}
	if err := two.start(ctx); err != nil {
		return err
	}
	if _, err := chat.wait(ctx, func(m message) bool { return m.Body == missed }); err != nil {
		return err
	}
	fmt.Println("   his chat went on by itself and shows what Alice wrote meanwhile")
	if err := chat.close(); err != nil {
		return err
	}
	if chat, err = s.bob.openChat(ctx, s.room); err != nil {
		return err
	}
	if _, err := chat.wait(ctx, func(m message) bool { return m.Body == missed }); err != nil {
		return err
	}
	if err := chat.write(ctx, farewell); err != nil {
		return err
	}
	fmt.Println("   his new chat has it, too, and he answers")
	if _, err := s.alice.waitFor(ctx, s.room, func(m message) bool { return m.Body == farewell }); err != nil {
		return err
	}
	return chat.close()
}

func (s *stage) print(ctx context.Context) error {
	for _, p := range []*person{s.alice, s.bob} {
		seen, err := p.do(ctx, "", "read", s.room)
		if err != nil {
			return err
		}
		fmt.Printf("   %s\n", p.name)
		for line := range strings.Lines(string(seen)) {
			fmt.Print("     ", line)
		}
		for _, text := range []string{greeting, reply, missed, farewell, fileName} {
			if !bytes.Contains(seen, []byte(text)) {
				return fmt.Errorf("%s does not see %q", p.name, text)
			}
		}
	}
	return nil
}

// inspect searches everything that was kept. The unencrypted message has to be found, else the search is
// blind and proves nothing.
func (s *stage) inspect(context.Context) error {
	for _, server := range s.servers {
		if err := server.stop(); err != nil {
			return err
		}
	}
	secret := []string{greeting, reply, missed, farewell, strings.TrimSpace(document), fileName, passwordA, passwordB}
	for i, dir := range []string{s.servers[0].dir, s.servers[1].dir, s.alice.home, s.bob.home} {
		found, files, err := search(dir, append(secret, control))
		if err != nil {
			return err
		}
		result := "nothing found"
		for _, f := range found {
			if f.text != control {
				return fmt.Errorf("%q was found in %s", f.text, f.file)
			}
			result = "nothing found but the message that was sent unencrypted, as it has to be"
		}
		if i == 0 && len(found) == 0 {
			return errors.New("the search did not even find the message that was not encrypted, so it proves nothing")
		}
		fmt.Printf("   %s: %d files, %s\n", filepath.Base(dir), files, result)
	}
	return nil
}
