package cli

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

const chatCommands = `  /upload FILE            send a file
  /download EVENT [FILE]  fetch the file of a message, and decrypt it
  /members                who is in the room
  /invite USER            invite somebody
  /verify [USER]          compare keys with who asks for it, or ask
  /me TEXT                say what you do
  /help                   this list
  /quit                   end the chat`

// enter does what a line says: a command, or a message.
func (t *talk) enter(ctx context.Context, line string) error {
	rest, isCommand := strings.CutPrefix(line, "/")
	if !isCommand || strings.HasPrefix(rest, "/") {
		return t.say(ctx, rest, &sendKind{})
	}
	name, arg, _ := strings.Cut(rest, " ")
	arg = strings.TrimSpace(arg)
	var err error
	switch name {
	case "me":
		return t.say(ctx, arg, &sendKind{emote: true})
	case "upload":
		err = t.upload(ctx, arg)
	case "download":
		err = t.download(ctx, arg)
	case "members":
		err = t.members(ctx)
	case "invite":
		err = t.invite(ctx, arg)
	case "verify":
		err = t.verify(ctx, arg)
	case "help":
		t.app.note(chatCommands)
	default:
		err = fail(exitUsage, "/help lists the commands; to send a line that begins with /, begin it with //", "there is no command /%s", safeLine(name))
	}
	if err != nil {
		return t.failed(ctx, err)
	}
	return nil
}

func (t *talk) upload(ctx context.Context, name string) error {
	if name == "" || name == "-" { // standard input is what the chat reads
		return fail(exitUsage, "name a file: /upload FILE", "a file is missing")
	}
	data, err := t.app.readFile(name)
	if err != nil {
		return err
	}
	m, err := t.s.upload(ctx, t.room, filepath.Base(name), data, t.options)
	if err != nil {
		return err
	}
	return t.sent(m)
}

func (t *talk) download(ctx context.Context, arg string) error {
	name, output, _ := strings.Cut(arg, " ")
	output = strings.TrimSpace(output)
	event, err := id.ParseEventID(name)
	if err != nil {
		return err
	}
	if output == "-" {
		return fail(exitUsage, "name a file: /download EVENT FILE", "the chat itself writes to standard output")
	}
	e, err := t.s.client.Event(ctx, t.room, event)
	if err != nil {
		return err
	}
	// Not decodeAll, which syncs: here follow does that.
	m, _ := t.s.decode(t.room, e)
	return t.s.save(ctx, m, output, false)
}

func (t *talk) members(ctx context.Context) error {
	views, err := t.s.memberViews(ctx, t.room, false)
	if err != nil {
		return err
	}
	if t.app.json {
		return t.app.document(map[string]any{"kind": "members", "room_id": t.room, "members": views})
	}
	return t.app.showMembers(views)
}

func (t *talk) invite(ctx context.Context, arg string) error {
	user, err := id.ParseUserID(arg)
	if err != nil {
		return err
	}
	if err := t.s.client.Invite(ctx, t.room, user, ""); err != nil {
		return err
	}
	return t.app.answer(map[string]any{"kind": "invited", "room_id": t.room, "invited": user}, "Invited %s.", user)
}
