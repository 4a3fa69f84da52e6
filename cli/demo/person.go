package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// patience is how long a message may take to arrive.
const patience = 30 * time.Second

// person is someone at a terminal.
type person struct {
	name     string
	user     string
	password string
	home     string
	binary   string
	ca       string
	server   *server
	chatting *chat
}

// message is what the client tells of one message.
type message struct {
	Event     string `json:"event_id"`
	Sender    string `json:"sender"`
	Body      string `json:"body"`
	Kind      string `json:"kind"`
	State     string `json:"state"`
	Trust     string `json:"trust"`
	Reason    string `json:"reason"`
	Encrypted bool   `json:"encrypted"`
}

func (p *person) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Dir = p.home
	cmd.Env = append(os.Environ(), "SECURECOMM_HOME="+filepath.Join(p.home, "state"), "SECURECOMM_CA_FILE="+p.ca, "NO_COLOR=1")
	return cmd
}

// do runs one command of the client and answers its output.
func (p *person) do(ctx context.Context, input string, args ...string) ([]byte, error) {
	cmd := p.command(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: securecomm %s: %w: %s", p.name, strings.Join(args, " "), err, words.Bytes())
	}
	return out.Bytes(), nil
}

// ask runs a command with --json and decodes what it says.
func (p *person) ask(ctx context.Context, input string, out any, args ...string) error {
	answer, err := p.do(ctx, input, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: securecomm %s wrote no JSON: %w", p.name, strings.Join(args, " "), err)
	}
	return nil
}

func (p *person) register(ctx context.Context) error {
	if err := os.MkdirAll(p.home, 0o700); err != nil {
		return fmt.Errorf("making %s's folder: %w", p.name, err)
	}
	_, err := p.do(ctx, p.password+"\n", "register", p.user, "--server", p.server.url(), "--password-stdin")
	return err
}

func (p *person) send(ctx context.Context, room, text string) error {
	var sent message
	if err := p.ask(ctx, text, &sent, "send", room); err != nil {
		return err
	}
	if sent.State != "sent" || !sent.Encrypted {
		return fmt.Errorf("%s's message was not sent encrypted: %+v", p.name, sent)
	}
	return nil
}

// waitFor reads the room until a message is there.
func (p *person) waitFor(ctx context.Context, room string, match func(message) bool) (found message, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = until(ctx, p.name+" can read it", func() (bool, error) {
		lines, err := p.do(ctx, "", "read", room, "--json")
		if err != nil {
			return false, err
		}
		for line := range bytes.Lines(lines) {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				return false, fmt.Errorf("%s: read wrote no JSON: %w", p.name, err)
			}
			if match(m) {
				found = m
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}

// chat is a running "securecomm chat".
type chat struct {
	person *person
	cmd    *exec.Cmd
	keys   io.WriteCloser
	lines  chan message
	words  bytes.Buffer
}

// openChat starts a chat; its output is read until it ends.
func (p *person) openChat(ctx context.Context, room string) (*chat, error) {
	c := &chat{person: p, cmd: p.command(ctx, "chat", room, "--json"), lines: make(chan message, 1000)}
	keys, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("opening %s's keyboard: %w", p.name, err)
	}
	screen, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("opening %s's screen: %w", p.name, err)
	}
	c.keys, c.cmd.Stderr = keys, &c.words
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s's chat: %w", p.name, err)
	}
	go func() {
		defer close(c.lines)
		for scanner := bufio.NewScanner(screen); scanner.Scan(); {
			var m message
			if json.Unmarshal(scanner.Bytes(), &m) == nil {
				c.lines <- m
			}
		}
	}()
	p.chatting = c
	return c, nil
}

// write types a line and waits until it is sent.
func (c *chat) write(ctx context.Context, text string) error {
	if _, err := io.WriteString(c.keys, text+"\n"); err != nil {
		return fmt.Errorf("typing for %s: %w", c.person.name, err)
	}
	_, err := c.wait(ctx, func(m message) bool { return m.Body == text && m.State == "sent" && m.Encrypted })
	return err
}

func (c *chat) wait(ctx context.Context, match func(message) bool) (message, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case m, ok := <-c.lines:
			if !ok {
				return message{}, fmt.Errorf("%s's chat ended: %s", c.person.name, c.close())
			}
			if match(m) {
				return m, nil
			}
		case <-timer.C:
			return message{}, fmt.Errorf("%s did not see the message in %s", c.person.name, patience)
		case <-ctx.Done():
			return message{}, ctx.Err()
		}
	}
}

// close ends the chat as Ctrl-D does.
func (c *chat) close() error {
	c.person.chatting = nil
	if err := c.keys.Close(); err != nil {
		return fmt.Errorf("ending %s's chat: %w", c.person.name, err)
	}
	for range c.lines { // Wait may be called only when all has been read
		continue
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s's chat ended badly: %w: %s", c.person.name, err, c.words.Bytes())
	}
	return nil
}
