package cli

import (
	"context"
	"slices"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

const (
	maxRead  = 1000
	pageSize = 100
	// maxPages bounds how far back is looked for messages among other events.
	maxPages = 20

	// A message that is younger than freshness may be ahead of its key.
	freshness   = time.Minute
	keyPatience = time.Second
	keyAttempts = 4
)

func (a *app) read() *cobra.Command {
	var limit int
	var from string
	var all, offline, history bool
	cmd := &cobra.Command{
		Use:   "read ROOM",
		Short: "Show the latest messages of a room, decrypted",
		Long: "Shows the latest messages, the oldest first, each with its lock: green is encrypted by a\n" +
			"verified device, yellow encrypted by one that is not verified, red anything else.\n\n" +
			relatedHelp + "\n\n" +
			"With --json each line is one event as it was sent: \"kind\" is message, edit, reaction, file,\n" +
			"member, verification or other, \"relates_to\" the event that an edit, a reaction or an answer\n" +
			"belongs to, \"related\" how far that is to be trusted, \"body\" of an edit the new text, and\n" +
			"\"state_key\" is there if it is state. Nothing is edited, counted or quoted in it.\n\n" +
			"Nothing is kept on disk unless you say --history, which keeps the events shown, encrypted;\n" +
			"--offline shows what was kept. What is redacted is not kept any longer.",
		Example: "  securecomm read '!abc:one.example'\n  securecomm read '!abc:one.example' --limit 5 --json",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxRead {
				return fail(exitUsage, "choose another --limit", "the limit has to be from 1 to %d", maxRead)
			}
			ctx := cmd.Context()
			return a.withSession(ctx, func(s *session) error {
				if offline {
					return s.showKept(args[0], limit, all)
				}
				room, err := s.roomNow(ctx, args[0])
				if err != nil {
					return err
				}
				messages, older, err := s.latest(ctx, room, from, limit, all)
				if err != nil {
					return err
				}
				kept, err := s.kept(room)
				if err != nil {
					return err
				}
				if err := a.showAll(messages, gather(messages, kept)); err != nil {
					return err
				}
				if older != "" && !a.json {
					a.note("Older messages: --from %s", word(older))
				}
				if history {
					return s.keep(room, messages)
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&limit, "limit", 20, "how many messages, edits and reactions")
	flags.StringVar(&from, "from", "", "go on where an earlier call stopped")
	flags.BoolVar(&all, "all", false, "also joins, leaves and other events")
	flags.BoolVar(&history, "history", false, "keep the messages on disk, encrypted")
	flags.BoolVar(&offline, "offline", false, "show what --history kept, without the network")
	cmd.MarkFlagsMutuallyExclusive("offline", "from")
	cmd.MarkFlagsMutuallyExclusive("offline", "history")
	return cmd
}

// latest reads up to limit messages backwards from a token and answers them oldest first, with the token
// where older ones begin.
func (s *session) latest(ctx context.Context, room id.RoomID, from string, limit int, all bool) ([]message, string, error) {
	var found []client.Event
	var redacted []id.EventID
	answered := map[id.EventID][]id.UserID{}
	for range maxPages {
		page, err := s.client.Messages(ctx, room, from, min(limit-len(found), pageSize))
		if err != nil {
			return nil, "", err
		}
		if err := s.learnSenders(ctx, page.Chunk); err != nil {
			return nil, "", err
		}
		for _, e := range page.Chunk {
			m, ok := s.decode(room, e)
			if ok && (all || m.said()) {
				found = append(found, e)
			}
			if gone := redactedBy(e); gone != "" {
				redacted = append(redacted, gone)
			}
			if m.Type == verify.TypeReady || m.Type == verify.TypeCancel || m.Type == verify.TypeDone {
				asked := verify.InRoom(m.Content)
				answered[asked] = append(answered[asked], m.Sender)
			}
		}
		from = page.End
		if from == "" || len(page.Chunk) == 0 || len(found) >= limit {
			break
		}
	}
	if err := s.forget(room, redacted...); err != nil {
		return nil, "", err
	}
	slices.Reverse(found)
	messages, err := s.decodeAll(ctx, room, found)
	if err != nil {
		return nil, "", err
	}
	for i := range messages {
		m := &messages[i]
		m.asksMe = m.asksMe && !slices.Contains(answered[m.ID], m.Sender) && !slices.Contains(answered[m.ID], m.To)
	}
	return messages, from, s.afterDecrypting(ctx)
}

// decodeAll makes events into messages. The key of a fresh message may arrive a moment after it, so that a
// little patience is had with those.
func (s *session) decodeAll(ctx context.Context, room id.RoomID, events []client.Event) ([]message, error) {
	for attempt := range keyAttempts {
		messages := make([]message, len(events))
		waiting := false
		for i, e := range events {
			messages[i], _ = s.decode(room, e)
			waiting = waiting || messages[i].undecryptable && time.Since(time.UnixMilli(e.Timestamp)) < freshness
		}
		if !waiting || attempt == keyAttempts-1 {
			return messages, nil
		}
		answer, err := s.client.Sync(ctx, client.SyncRequest{Since: s.since(), Filter: catchUpFilter, Timeout: keyPatience})
		if err != nil {
			return nil, err
		}
		if err := s.take(ctx, answer); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// learnSenders fetches the devices of those who sent encrypted messages, by which their messages are judged.
func (s *session) learnSenders(ctx context.Context, events []client.Event) error {
	var senders []id.UserID
	for _, e := range events {
		if e.Type == "m.room.encrypted" && !slices.Contains(senders, e.Sender) {
			senders = append(senders, e.Sender)
		}
	}
	if len(senders) == 0 {
		return nil
	}
	return s.learnUsers(ctx, senders)
}

// between reads the events that a limited timeline left out: backwards from its start until an event that was
// seen before. It answers them oldest first.
func (s *session) between(ctx context.Context, room id.RoomID, from string, seen func(id.EventID) bool) ([]client.Event, error) {
	var missing []client.Event
	for range maxPages {
		page, err := s.client.Messages(ctx, room, from, pageSize)
		if err != nil {
			return nil, err
		}
		known := slices.IndexFunc(page.Chunk, func(e client.Event) bool { return seen(e.ID) })
		if known >= 0 {
			missing = append(missing, page.Chunk[:known]...)
			break
		}
		missing = append(missing, page.Chunk...)
		if from = page.End; from == "" || len(page.Chunk) == 0 {
			break
		}
	}
	slices.Reverse(missing)
	return missing, nil
}
