package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

const (
	chatPoll = 30 * time.Second
	// maxPending bounds the messages that wait for their keys, maxSeen the events remembered as shown.
	maxPending = 200
	maxSeen    = 5000
)

func (a *app) chat() *cobra.Command {
	var kind sendKind
	var limit int
	var history bool
	cmd := &cobra.Command{
		Use:   "chat ROOM",
		Short: "Talk in a room, live",
		Long: "Shows the latest messages and then new ones as they come; each line you write is sent.\n" +
			"The end of the input (Ctrl-D) or /quit ends the chat. No other command can use the profile\n" +
			"meanwhile; a line that begins with / is a command of the chat (// sends it with one /):\n\n" +
			chatCommands + "\n\n" +
			relatedHelp + "\nWhat comes live has a line of its own, which names what it is about.\n\n" +
			"The lock is green for a message encrypted by a verified device, yellow for one encrypted by\n" +
			"a device that is not verified, red for all others. With --json each line is a message with\n" +
			"its state: received, sending, sent or failed.",
		Example: "  securecomm chat '!abc:one.example'\n  securecomm chat '#lobby:one.example' --json",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.room(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				a.chatting = true
				t := &talk{app: a, s: s, room: room, options: kind.options(), history: history, seen: map[id.EventID]bool{}}
				return t.run(cmd.Context(), limit)
			})
		},
	}
	kind.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 10, "how many earlier messages to show")
	cmd.Flags().BoolVar(&history, "history", false, "keep the messages on disk, encrypted")
	return cmd
}

// talk is one running chat. Everything but waiting for the network and for the keyboard happens in one
// goroutine, run's.
type talk struct {
	app     *app
	s       *session
	room    id.RoomID
	options sendOptions
	history bool
	seen    map[id.EventID]bool
	order   []id.EventID   // of seen, oldest first
	page    *page          // what was shown, for what may still come about it
	pending []client.Event // could not be decrypted yet
	asker   id.UserID      // who asked last for a verification
	quit    bool

	lines    chan string
	arrivals chan arrival
	outages  chan error
	ended    chan error
}

// arrival is one answer of the server, and where to tell that it was taken in.
type arrival struct {
	answer *client.SyncAnswer
	done   chan<- error
}

func (t *talk) run(ctx context.Context, limit int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := t.begin(ctx, limit); err != nil {
		return err
	}
	t.lines, t.arrivals, t.outages, t.ended = make(chan string), make(chan arrival), make(chan error), make(chan error, 1)
	go t.readLines(ctx, t.lines)
	request := client.SyncRequest{Since: t.s.since(), Timeout: chatPoll, Filter: chatFilter(t.room)}
	go t.follow(ctx, request, t.arrivals, t.outages, t.ended)
	for !t.quit {
		select {
		case line, ok := <-t.lines:
			if !ok || line == "/quit" {
				return nil
			}
			if err := t.enter(ctx, line); err != nil {
				return err
			}
		case got := <-t.arrivals:
			err := t.take(ctx, got.answer)
			got.done <- err
			if err != nil {
				return err
			}
		case err := <-t.outages:
			t.app.note("Waiting for the server: %v", err)
		case err := <-t.ended:
			return err
		}
	}
	return nil
}

// begin shows what was said before.
func (t *talk) begin(ctx context.Context, limit int) error {
	if err := t.s.catchUp(ctx); err != nil {
		return err
	}
	if err := t.showEarlier(ctx, min(limit, maxRead)); err != nil {
		return err
	}
	facts, err := t.s.facts(ctx, t.room)
	if err != nil {
		return err
	}
	if facts.Encrypted {
		t.app.note("%s is encrypted. Write a line to send it; /help lists commands; Ctrl-D ends the chat.", t.room)
	} else {
		t.app.note("%s", t.app.paint(colourRed, compose("%s is NOT encrypted: the servers can read everything.", t.room)))
	}
	return nil
}

func (t *talk) showEarlier(ctx context.Context, limit int) (err error) {
	var messages []message
	if limit > 0 {
		if messages, _, err = t.s.latest(ctx, t.room, "", limit, false); err != nil {
			return err
		}
	}
	kept, err := t.s.kept(t.room)
	if err != nil {
		return err
	}
	for _, m := range messages {
		t.remember(m.ID)
	}
	t.page = gather(messages, kept)
	if err := t.app.showAll(messages, t.page); err != nil {
		return err
	}
	return t.keep(messages...)
}

func (t *talk) follow(ctx context.Context, request client.SyncRequest, arrivals chan<- arrival, outages chan<- error, ended chan<- error) {
	ended <- t.s.client.Follow(ctx, request, func(answer *client.SyncAnswer) error {
		done := make(chan error, 1)
		select {
		case arrivals <- arrival{answer, done}:
		case <-ctx.Done():
			return ctx.Err()
		}
		return <-done
	}, func(err error) {
		select {
		case outages <- err:
		case <-ctx.Done():
		}
	})
}

func chatFilter(rooms ...id.RoomID) json.RawMessage {
	name, err := json.Marshal(append([]id.RoomID{}, rooms...))
	if err != nil {
		return catchUpFilter
	}
	return json.RawMessage(`{"presence":{"types":[]},"account_data":{"types":[]},"room":{"rooms":` + string(name) +
		`,"ephemeral":{"types":[]},"account_data":{"types":[]},"timeline":{"limit":50},` +
		`"state":{"types":["m.room.encryption"],"lazy_load_members":true}}}`)
}

// readLines passes on the lines of standard input until it ends. It is left behind at the end of the chat,
// since reading from a terminal can't be interrupted.
func (t *talk) readLines(ctx context.Context, lines chan<- string) {
	defer close(lines)
	for {
		line, err := t.app.readLine(maxBody)
		if line != "" {
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.app.note("%v", err)
			return
		}
	}
}

// say sends a line and shows how far it got. Only what ends the session is an error.
func (t *talk) say(ctx context.Context, line string, kind *sendKind) error {
	content, err := kind.text(line)
	if err != nil {
		return t.failed(ctx, err)
	}
	m := message{Kind: "message", Room: t.room, Sender: t.s.me.User, Device: t.s.me.Device, Type: "m.room.message",
		Body: line, State: stateSending, Time: time.Now().UnixMilli(), Reason: "not encrypted yet"}
	if t.app.json {
		if err := t.app.show(m, t.page); err != nil {
			return err
		}
	}
	sent, err := t.s.send(ctx, t.room, "m.room.message", client.NewTxnID(), content, t.options)
	if err == nil {
		return t.sent(sent)
	}
	m.State, m.Error = stateFailed, err.Error()
	if err := t.app.show(m, t.page); err != nil {
		return err
	}
	return t.failed(ctx, err)
}

// sent shows a message that the server has.
func (t *talk) sent(m message) error {
	t.remember(m.ID)
	return t.showNew(m)
}

// failed tells what went wrong and lets the chat go on, unless the session has ended.
func (t *talk) failed(ctx context.Context, err error) error {
	code, hint := explain(err)
	if code == exitNotLoggedIn || ctx.Err() != nil {
		return err
	}
	t.app.note("securecomm: %v\nhint: %s", err, hint)
	return nil
}

// take takes in what the server answered: keys first and durably, then what is to be shown.
func (t *talk) take(ctx context.Context, answer *client.SyncAnswer) error {
	if err := t.passing(t.s.take(ctx, answer)); err != nil {
		return err
	}
	if err := t.retryPending(); err != nil {
		return err
	}
	if left, ok := answer.Rooms.Leave[t.room]; ok {
		t.app.note("You are not in %s any more.", t.room)
		return t.showAll(left.Timeline.Events)
	}
	joined := answer.Rooms.Join[t.room]
	events := []client.Event(joined.Timeline.Events)
	if joined.Timeline.Limited && joined.Timeline.Prev != "" && len(t.seen) > 0 {
		missed, err := t.s.between(ctx, t.room, joined.Timeline.Prev, func(e id.EventID) bool { return t.seen[e] })
		if err := t.passing(err); err != nil {
			return err
		}
		events = append(missed, events...)
	}
	if err := t.passing(t.s.learnSenders(ctx, events)); err != nil {
		return err
	}
	if err := t.showAll(events); err != nil {
		return err
	}
	return t.passing(t.s.afterDecrypting(ctx))
}

// passing lets the chat go on when the server can't be reached: what was to be sent to it is kept and goes out
// with the next answer.
func (t *talk) passing(err error) error {
	if err == nil || !client.Temporary(err) {
		return err
	}
	t.app.note("Waiting for the server: %v", err)
	return nil
}

func (t *talk) showAll(events []client.Event) error {
	for _, e := range events {
		if t.seen[e.ID] {
			continue
		}
		t.remember(e.ID)
		if gone := redactedBy(e); gone != "" {
			t.page.forget(gone)
			if err := t.s.forget(t.room, gone); err != nil {
				return err
			}
		}
		m, ok := t.s.decode(t.room, e)
		if !ok || m.Kind == "other" && !m.undecryptable {
			continue
		}
		if m.undecryptable && len(t.pending) < maxPending {
			t.pending = append(t.pending, e)
		}
		if err := t.showNew(m); err != nil {
			return err
		}
	}
	return nil
}

// retryPending shows the messages whose keys have come since.
func (t *talk) retryPending() error {
	still := t.pending[:0]
	for _, e := range t.pending {
		m, ok := t.s.decode(t.room, e)
		if ok && m.undecryptable {
			still = append(still, e)
			continue
		}
		if !ok || m.Kind == "other" {
			continue
		}
		if err := t.showNew(m); err != nil {
			return err
		}
	}
	t.pending = still
	return nil
}

func (t *talk) showNew(m message) error {
	if m.asksMe {
		t.asker = m.Sender
	}
	if err := t.app.show(m, t.page); err != nil {
		return err
	}
	t.page.add(m)
	return t.keep(m)
}

func (t *talk) keep(messages ...message) error {
	if !t.history {
		return nil
	}
	return t.s.keep(t.room, messages)
}

// remember notes an event as shown. When there are too many the older half goes: the newer one has to hold whatever a
// limited timeline can leave out.
func (t *talk) remember(e id.EventID) {
	if t.seen[e] {
		return
	}
	if len(t.order) >= maxSeen {
		for _, old := range t.order[:maxSeen/2] {
			delete(t.seen, old)
		}
		t.order = slices.Delete(t.order, 0, maxSeen/2)
	}
	t.seen[e] = true
	t.order = append(t.order, e)
}
