package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// verify verifies a user within the chat: who asked last, or the one who is named.
func (t *talk) verify(ctx context.Context, arg string) error {
	user := t.asker
	if arg != "" {
		var err error
		if user, err = id.ParseUserID(arg); err != nil {
			return err
		}
	}
	if user == "" || user == t.s.me.User {
		return fail(exitUsage, "name somebody else: /verify USER", "nobody asks for a verification here")
	}
	l := &live{session: t.s, user: user, hearing: newHearing()}
	l.rooms, l.confined = []id.RoomID{t.room}, true
	if in, err := l.isIn(ctx, t.room); err != nil {
		return err
	} else if !in {
		return fail(exitFailure, "/members lists who is", "%s is not in the room", user)
	}
	l.next = func(ctx context.Context, patience time.Duration) error { return t.await(ctx, l, patience) }
	l.confirm = func(ctx context.Context, what string) (bool, error) { return t.confirm(ctx, l, what) }
	l.collecting = true
	defer func() { l.collecting, l.collected = false, nil }()
	if err := l.run(ctx); err != nil {
		return err
	}
	t.asker = ""
	return t.app.answer(map[string]any{"kind": "verified", "user_id": user, "verified": true}, "Verified %s.", user)
}

var errStopped = errors.New("you have ended the verification")

// await waits for news as the chat does, and lets the verification hear them. A line ends the verification, since it was
// meant for something else.
func (t *talk) await(ctx context.Context, l *live, patience time.Duration) error {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line, ok, err := t.hear(patient, l)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && patient.Err() != nil:
		return ctx.Err()
	case err != nil || !ok:
		return err
	case line != "":
		t.app.note("The verification is cancelled, and nothing was sent.")
	}
	return fail(exitFailure, "/verify begins again", "%w", errStopped)
}

// confirm asks a question, and hears what comes until there is an answer.
func (t *talk) confirm(ctx context.Context, l *live, what string) (bool, error) {
	t.app.prompt("%s Type yes to confirm: ", what)
	for {
		switch line, ok, err := t.hear(ctx, l); {
		case err != nil:
			return false, err
		case ok && t.quit:
			return false, fail(exitFailure, "/verify begins again", "%w", errStopped)
		case ok:
			return strings.TrimSpace(line) == "yes", nil
		}
	}
}

// hear takes in one piece of news, or answers a line.
func (t *talk) hear(ctx context.Context, l *live) (line string, ok bool, err error) {
	select {
	case line, open := <-t.lines:
		t.quit = !open || line == "/quit"
		return line, true, nil
	case got := <-t.arrivals:
		err := t.take(ctx, got.answer)
		if err == nil {
			err = l.hear(ctx, got.answer)
		}
		got.done <- err
		return "", false, err
	case err := <-t.outages:
		t.app.note("Waiting for the server: %v", err)
		return "", false, nil
	case err := <-t.ended:
		t.ended <- err // for the chat itself
		return "", false, err
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
}
