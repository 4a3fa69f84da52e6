package cli

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxScan bounds the pages of a room in which is looked for requests that wait, maxExchanges the requests that are
	// remembered.
	maxScan      = 3
	maxExchanges = 100
)

// hearing is what a verification hears in the rooms where it may take place.
type hearing struct {
	rooms     []id.RoomID
	confined  bool // to these rooms
	created   bool // the room was created for this; the other side may have created one as well
	seen      map[id.EventID]bool
	order     []id.EventID
	pending   []step // could not be decrypted yet
	steps     []step // wait for an answer
	exchanges map[id.EventID]*exchange
	ready     bool // our answer to the request stands in the room, before that of another own device
}

// step is an event of a room that belongs to a verification.
type step struct {
	room    id.RoomID
	event   client.Event
	kind    string // what follows is known once it is decrypted
	content json.RawMessage
}

// exchange is one conversation in a room, as far as others' steps show it.
type exchange struct {
	request step
	own     id.DeviceID // the own device that has asked, or has answered; empty if none
	taken   bool        // somebody has answered
	over    bool
}

func newHearing() hearing {
	return hearing{seen: map[id.EventID]bool{}, exchanges: map[id.EventID]*exchange{}}
}

// sync asks the server for what is new and takes it in.
func (l *live) sync(ctx context.Context, patience time.Duration) error {
	filter := chatFilter(l.rooms...)
	if l.created {
		filter = wideFilter
	}
	answer, err := l.client.Sync(ctx, client.SyncRequest{Since: l.since(), Filter: filter, Timeout: patience})
	if err != nil {
		return err
	}
	if err := l.take(ctx, answer); err != nil {
		return err
	}
	return l.hear(ctx, answer)
}

// wideFilter asks for what is said in all rooms, and for invitations.
var wideFilter = json.RawMessage(`{"presence":{"types":[]},"account_data":{"types":[]},"room":{"ephemeral":{"types":[]},` +
	`"account_data":{"types":[]},"timeline":{"limit":20,"types":["m.room.encryption","m.room.member","m.room.message","m.room.encrypted","m.key.verification.*"]},` +
	`"state":{"types":["m.room.encryption"],"lazy_load_members":true}}}`)

// hear takes in what an answer of the server says of the rooms.
func (l *live) hear(ctx context.Context, answer *client.SyncAnswer) error {
	l.retry()
	for _, room := range l.rooms {
		joined := answer.Rooms.Join[room]
		events := []client.Event(joined.Timeline.Events)
		if joined.Timeline.Limited && joined.Timeline.Prev != "" {
			missed, err := l.between(ctx, room, joined.Timeline.Prev, func(e id.EventID) bool { return l.seen[e] })
			if err != nil {
				return err
			}
			events = append(missed, events...)
		}
		if err := l.learnSenders(ctx, events); err != nil {
			return err
		}
		for _, e := range events {
			l.note(step{room: room, event: e})
		}
	}
	if !l.created || l.user > l.me.User {
		return nil
	}
	// Both have created a room. The one of the smaller user counts, as with requests.
	if room, ok := invitedBy(answer, l.user, l.me.User); ok && !slices.Contains(l.rooms, room) {
		if err := l.enterRoom(ctx, room); err != nil {
			return err
		}
		return l.scan(ctx, room)
	}
	return nil
}

// listen finds what was said in the rooms before, and what of it goes on.
func (l *live) listen(ctx context.Context) error {
	for _, room := range l.rooms {
		if err := l.scan(ctx, room); err != nil {
			return err
		}
	}
	for range keyAttempts {
		if !slices.ContainsFunc(l.pending, func(p step) bool { return time.Since(time.UnixMilli(p.event.Timestamp)) < freshness }) {
			break
		}
		if err := l.next(ctx, keyPatience); err != nil { // their keys may be on the way
			return err
		}
		l.retry()
	}
	l.steps = nil // they are in the exchanges
	var latest *exchange
	for request, x := range l.exchanges {
		switch {
		case x.over || !fresh(x.request.event.Timestamp):
		case x.own == l.me.Device: // of a run that was interrupted
			if err := l.abandon(ctx, x.request.room, request); err != nil {
				return err
			}
		case x.own != "":
			return fail(exitFailure, "finish it there, or cancel it there", "your session %s is verifying %s", x.own, l.user)
		case x.taken || latest != nil && latest.request.event.Timestamp > x.request.event.Timestamp:
		default:
			latest = x
		}
	}
	if latest != nil {
		l.steps = []step{latest.request}
	}
	return nil
}

// scan reads what was said in a room of late.
func (l *live) scan(ctx context.Context, room id.RoomID) error {
	var recent []client.Event
	from := ""
	for range maxScan {
		page, err := l.client.Messages(ctx, room, from, pageSize)
		if err != nil {
			return err
		}
		recent = append(recent, page.Chunk...)
		if from = page.End; from == "" || len(page.Chunk) == 0 || !fresh(page.Chunk[len(page.Chunk)-1].Timestamp) {
			break
		}
	}
	slices.Reverse(recent)
	recent = slices.DeleteFunc(recent, func(e client.Event) bool { return !fresh(e.Timestamp) })
	if err := l.learnSenders(ctx, recent); err != nil {
		return err
	}
	for _, e := range recent {
		l.note(step{room: room, event: e})
	}
	return l.afterDecrypting(ctx)
}

// note takes an event of one of the two users.
func (l *live) note(s step) {
	if l.seen[s.event.ID] || s.event.StateKey != nil || s.event.Sender != l.user && s.event.Sender != l.me.User {
		return
	}
	if len(l.order) >= maxSeen {
		delete(l.seen, l.order[0])
		l.order = l.order[1:]
	}
	l.seen[s.event.ID], l.order = true, append(l.order, s.event.ID)
	l.decrypt(s)
}

func (l *live) decrypt(s step) {
	m, ok := l.decode(s.room, s.event)
	switch {
	case !ok || m.Reason == string(e2ee.ReasonOtherSender):
	case m.undecryptable && len(l.pending) < maxPending:
		l.pending = append(l.pending, s)
	case m.Kind == "verification" || strings.HasPrefix(m.Type, "m.key.verification."):
		s.kind, s.content = m.Type, m.Content
		l.track(s)
		if len(l.steps) < maxPending {
			l.steps = append(l.steps, s)
		}
	}
}

// retry decrypts what could not be before.
func (l *live) retry() {
	waiting := l.pending
	l.pending = nil
	for _, s := range waiting {
		l.decrypt(s)
	}
}

// track follows who asks for what and who has answered.
func (l *live) track(s step) {
	if s.kind == "m.room.message" {
		to, from, _ := verify.Asks(s.content)
		x := &exchange{request: s}
		switch {
		case s.event.Sender == l.user && to == l.me.User:
		case s.event.Sender == l.me.User && to == l.user:
			x.own = from
		default:
			return
		}
		if len(l.exchanges) < maxExchanges {
			l.exchanges[s.event.ID] = x
		}
		return
	}
	x := l.exchanges[verify.InRoom(s.content)]
	if x == nil || x.request.room != s.room {
		return
	}
	switch s.kind {
	case verify.TypeReady:
		x.taken = true
		if s.event.Sender == l.me.User && x.own == "" {
			x.own = verify.From(s.content)
		}
	case verify.TypeCancel, verify.TypeDone:
		x.over = true
	}
}

// answerRooms answers what came in rooms.
func (l *live) answerRooms(ctx context.Context) error {
	came := l.steps
	l.steps = nil
	for _, s := range came {
		if err := l.inRoom(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// inRoom takes one event of a room.
func (l *live) inRoom(ctx context.Context, s step) error {
	if s.kind == "m.room.message" {
		x := l.exchanges[s.event.ID]
		if x == nil || x.taken || x.over || s.event.Sender != l.user {
			return nil // it is our own, or for somebody else, or is answered already
		}
		talk, ready, err := verify.AcceptInRoom(l.own(), l.user, s.event.ID, s.content, time.UnixMilli(s.event.Timestamp), time.Now())
		if err != nil {
			return nil // too old, or nothing that could be answered
		}
		return l.asking(ctx, talk, ready, s.room)
	}
	if l.talk == nil || s.room != l.room || string(verify.InRoom(s.content)) != l.talk.ID() {
		return nil // of a conversation that is over
	}
	if s.event.Sender == l.user {
		return l.handle(ctx, s.kind, s.content)
	}
	return l.ofOwn(s)
}

// errElsewhere ends a verification that another own session has taken.
var errElsewhere = errors.New("another of your sessions has taken the verification")

// ofOwn takes what another own device, or this one itself, says in the conversation.
func (l *live) ofOwn(s step) error {
	elsewhere := verify.From(s.content) != l.me.Device
	switch {
	case s.kind == verify.TypeReady && !l.asked && !elsewhere:
		l.ready = true
	case s.kind == verify.TypeReady && !l.asked && !l.ready:
		l.talk = nil
		return fail(exitFailure, "go on there", "%w", errElsewhere)
	case s.kind == verify.TypeCancel:
		l.talk = nil
		return fail(exitFailure, "begin again when both are ready", "another of your sessions has cancelled the verification")
	}
	return nil
}

// sendInRoom sends one event of the conversation, encrypted if the room is. What is sent does not come back as a step.
func (l *live) sendInRoom(ctx context.Context, m verify.Message) error {
	sent, err := l.session.send(ctx, l.room, m.Type, client.NewTxnID(), m.Content, sendOptions{verifying: l.user})
	if err == nil && m.Type != verify.TypeReady { // whose place among others' counts
		l.seen[sent.ID], l.order = true, append(l.order, sent.ID)
	}
	return err
}

func (l *live) askInRoom(ctx context.Context, room id.RoomID) error {
	talk, request := verify.RequestInRoom(l.own(), l.user, time.Now())
	sent, err := l.session.send(ctx, room, request.Type, client.NewTxnID(), request.Content, sendOptions{verifying: l.user})
	if err != nil {
		return err
	}
	talk.Sent(sent.ID)
	l.talk, l.room, l.asked = talk, room, true
	l.app.note("Asked %s in %s; waiting for the other side to accept.", l.user, room)
	return nil
}

// abandon cancels what an earlier run of this session has left behind.
func (l *live) abandon(ctx context.Context, room id.RoomID, request id.EventID) error {
	m := verify.Abandon(request)
	_, err := l.session.send(ctx, room, m.Type, client.NewTxnID(), m.Content, sendOptions{verifying: l.user})
	return err
}
