package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

// verification takes a message of a verification out of a sync. Only one that is waited for is answered; of others
// the user hears, and can begin one.
func (s *session) verification(v e2ee.Verification) {
	switch {
	case s.collecting:
		s.collected = append(s.collected, v)
	case v.Type == verify.TypeRequest:
		s.app.note("%s asks to compare keys: securecomm keys verify %s --live", v.Sender, v.Sender)
	}
}

// live is one verification in which both users look at their screens: in a room with another user, by messages to devices
// among the own ones.
type live struct {
	*session
	user     id.UserID
	talk     *verify.Session
	room     id.RoomID // where it takes place; none if by messages to devices
	asked    bool      // we have asked; else the other side has
	expected verify.Keys
	hearing  // of rooms

	next    func(context.Context, time.Duration) error           // waits for an answer of the server and takes it in
	confirm func(ctx context.Context, what string) (bool, error) // asks the user
}

// verifyLive verifies a user by a short text that both users compare.
func (s *session) verifyLive(ctx context.Context, user id.UserID) error {
	l := &live{session: s, user: user, hearing: newHearing()}
	l.next = l.sync
	l.confirm = func(_ context.Context, what string) (bool, error) { return s.app.confirm(what) }
	l.collecting = true
	defer func() { l.collecting, l.collected = false, nil }()
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	if user != s.me.User {
		if err := l.findRooms(ctx); err != nil {
			return err
		}
	}
	return l.run(ctx)
}

// run is the verification. It ends ten minutes after it was asked for at the latest.
func (l *live) run(ctx context.Context) error {
	err := l.converse(ctx)
	if err == nil || l.talk == nil || l.talk.Ended() {
		return err
	}
	code := verify.CodeUser
	if !time.Now().Before(l.talk.Expires()) {
		code = verify.CodeTimeout
		err = &verify.Cancelled{Code: code}
	}
	// The context may be what ended it; the other side should hear of it all the same.
	goodbye, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
	defer cancel()
	return errors.Join(err, l.send(goodbye, l.talk.Cancel(code)))
}

const cancelPatience = 5 * time.Second

func (l *live) converse(ctx context.Context) error {
	if err := l.learnUsers(ctx, []id.UserID{l.me.User, l.user}); err != nil {
		return err
	}
	if err := l.listen(ctx); err != nil {
		return err
	}
	if err := l.answer(ctx); err != nil {
		return err
	}
	if l.talk == nil {
		if err := l.ask(ctx); err != nil {
			return err
		}
	}
	for l.talk.Proven() == nil {
		if err := l.step(ctx); err != nil {
			return err
		}
	}
	return l.trust(ctx)
}

// step has the users compare if they can, else waits for what comes.
func (l *live) step(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, l.talk.Expires())
	defer cancel()
	if l.talk.Comparable() && l.expected == nil {
		return l.compare(ctx)
	}
	if err := l.next(ctx, chatPoll); err != nil {
		return err
	}
	return l.answer(ctx)
}

func (l *live) own() verify.Party { return verify.Party{User: l.me.User, Device: l.me.Device} }

// ask asks the user: another one in a room, if there is a way to one, else all devices.
func (l *live) ask(ctx context.Context) error {
	room, err := l.roomToAsk(ctx)
	if err != nil {
		return err
	}
	if room != "" {
		return l.askInRoom(ctx, room)
	}
	talk, request := verify.Request(l.own(), l.user, time.Now())
	l.talk, l.asked = talk, true
	l.app.note("Asked %s; waiting for the other side to accept.", l.user)
	return l.send(ctx, request)
}

// answer answers what came.
func (l *live) answer(ctx context.Context) error {
	came := l.collected
	l.collected = nil
	for _, v := range came {
		if err := l.toDevice(ctx, v); err != nil {
			return err
		}
	}
	return l.answerRooms(ctx)
}

// toDevice takes a message to this device.
func (l *live) toDevice(ctx context.Context, v e2ee.Verification) error {
	if v.Sender != l.user {
		return nil
	}
	if v.Type == verify.TypeRequest {
		talk, ready, err := verify.Accept(l.own(), l.user, v.Content, time.Now())
		if err != nil {
			return nil // too old, or nothing that could be answered
		}
		return l.asking(ctx, talk, ready, "")
	}
	if l.talk == nil || l.room != "" {
		return nil // of a conversation that is over
	}
	waiting := l.talk.Other().Device == ""
	if err := l.handle(ctx, v.Type, v.Content); err != nil {
		return err
	}
	if waiting && l.talk.Other().Device != "" {
		return l.tellOthers(ctx)
	}
	return nil
}

// handle takes a message of the conversation, and sends the answers.
func (l *live) handle(ctx context.Context, kind string, content json.RawMessage) error {
	answers, failed := l.talk.Handle(kind, content)
	return errors.Join(failed, l.send(ctx, answers...))
}

// asking takes a request of the other side. If both have asked, the one of the smaller user, or device, counts. There is
// never more than one conversation.
func (l *live) asking(ctx context.Context, talk *verify.Session, ready verify.Message, room id.RoomID) error {
	if l.talk != nil && (l.expected != nil || l.talk.Comparable()) {
		return nil
	}
	if l.asked && cmp.Or(cmp.Compare(l.user, l.me.User), cmp.Compare(talk.Other().Device, l.me.Device)) > 0 {
		return nil
	}
	if l.talk != nil {
		if err := l.send(ctx, l.talk.Cancel(verify.CodeUser)); err != nil {
			return err
		}
	}
	l.talk, l.room, l.asked, l.ready = talk, room, false, false
	l.app.note("%s asked; comparing.", l.user)
	return l.send(ctx, ready)
}

// compare lets the user look.
func (l *live) compare(ctx context.Context) error {
	numbers := l.talk.Decimals()
	var pictures text
	for _, e := range l.talk.Emojis() {
		pictures += compose("    %s %s", e.Symbol, e.Name)
	}
	l.app.note("The other screen has to show, over a channel where you know who it is:\n\n%s\n\n    or, as numbers: %d %d %d\n",
		pictures, numbers[0], numbers[1], numbers[2])
	same, err := l.confirm(ctx, "Is it the same?")
	if err != nil {
		return err
	}
	if !same {
		return errors.Join(l.send(ctx, l.talk.Cancel(verify.CodeText)), &verify.Cancelled{Code: verify.CodeText})
	}
	if err := l.answer(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err()) // it was cancelled meanwhile, or took too long
	}
	own, err := l.machine.VerificationKeys(l.me.User, l.me.Device)
	if err != nil {
		return err
	}
	if l.expected, err = l.machine.VerificationKeys(l.user, l.talk.Other().Device); err != nil {
		return err
	}
	answers, failed := l.talk.Confirm(own, l.expected)
	return errors.Join(failed, l.send(ctx, answers...))
}

// trust marks what was proven as verified. It is what was expected when it was proven, and nothing that a server
// has said since.
func (l *live) trust(ctx context.Context) error {
	device := l.talk.Other().Device
	for _, key := range l.talk.Proven() {
		fingerprint := l.expected[key]
		switch key {
		case "ed25519:" + id.KeyID(device):
			if l.user == l.me.User || len(l.talk.Proven()) == 1 {
				if err := l.verify(ctx, l.user, device, fingerprint); err != nil {
					return err
				}
			}
		case id.KeyID(identity.Algorithm + ":" + fingerprint):
			if err := l.verify(ctx, l.user, "", fingerprint); err != nil {
				return err
			}
		}
	}
	return nil
}

// send sends into the room, or to the other device; as long as it is not known which that is, to all of the user.
func (l *live) send(ctx context.Context, messages ...verify.Message) error {
	for _, m := range messages {
		if l.room != "" {
			if err := l.sendInRoom(ctx, m); err != nil {
				return err
			}
			continue
		}
		to := []id.DeviceID{l.talk.Other().Device}
		if to[0] == "" {
			var err error
			if to, err = l.others(""); err != nil {
				return err
			}
		}
		if err := l.sendTo(ctx, m, to); err != nil {
			return err
		}
	}
	return nil
}

// tellOthers tells the devices that did not take the request that another one did.
func (l *live) tellOthers(ctx context.Context) error {
	to, err := l.others(l.talk.Other().Device)
	if err != nil || len(to) == 0 {
		return err
	}
	return l.sendTo(ctx, verify.Taken(l.talk.ID()), to)
}

func (l *live) sendTo(ctx context.Context, m verify.Message, to []id.DeviceID) error {
	contents := map[id.DeviceID]json.RawMessage{}
	for _, device := range to {
		contents[device] = m.Content
	}
	body := map[string]any{"messages": map[id.UserID]any{l.user: contents}}
	return l.client.SendToDevice(ctx, m.Type, client.NewTxnID(), body)
}

// others are the user's devices but for this one and another.
func (l *live) others(but id.DeviceID) ([]id.DeviceID, error) {
	known, err := l.machine.Devices(l.user)
	if err != nil {
		return nil, err
	}
	var names []id.DeviceID
	for _, d := range known {
		if d.Device != but && (l.user != l.me.User || d.Device != l.me.Device) {
			names = append(names, d.Device)
		}
	}
	if len(names) == 0 && but == "" {
		return nil, fmt.Errorf("asking %s: %w", l.user, e2ee.ErrUnknown)
	}
	return names, nil
}
