package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

// session is a logged-in session with its keys. It belongs to one goroutine.
type session struct {
	app     *app
	profile *profile
	client  *client.Client
	machine *e2ee.Machine
	me      account

	// What was found out in this run.
	roomFacts map[id.RoomID]roomFacts
	audiences map[id.RoomID]audience

	collecting bool // messages of verifications, for live
	collected  []e2ee.Verification
}

// withSession opens the profile for one command.
func (a *app) withSession(ctx context.Context, do func(*session) error) (err error) {
	p, err := a.findProfile()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return err
	}
	s, err := p.session()
	if err != nil {
		return err
	}
	return do(s)
}

// session makes the session of an open profile.
func (p *profile) session() (*session, error) {
	who, err := p.account()
	if err != nil {
		return nil, err
	}
	c, err := p.client(who)
	if err != nil {
		return nil, err
	}
	machine, err := e2ee.Open(p.vault, who.User, who.Device)
	if err != nil {
		return nil, fmt.Errorf("opening the keys: %w", err)
	}
	return &session{app: p.app, profile: p, client: c, machine: machine, me: who,
		roomFacts: map[id.RoomID]roomFacts{}, audiences: map[id.RoomID]audience{}}, nil
}

// since is the position up to which everything was taken in.
func (s *session) since() string { return s.machine.SyncToken() }

// roomNow is room, once what has happened since the last command is taken in.
func (s *session) roomNow(ctx context.Context, arg string) (id.RoomID, error) {
	room, err := s.room(ctx, arg)
	if err == nil {
		err = s.catchUp(ctx)
	}
	return room, err
}

// room finds the room that an argument names.
func (s *session) room(ctx context.Context, arg string) (id.RoomID, error) {
	if !strings.HasPrefix(arg, "#") {
		return id.ParseRoomID(arg)
	}
	alias, err := id.ParseRoomAlias(arg)
	if err != nil {
		return "", err
	}
	room, _, err := s.client.Resolve(ctx, alias)
	return room, err
}

// inviters are the servers of those who invited the user into a room.
func (s *session) inviters(ctx context.Context, room string) []id.ServerName {
	answer, err := s.client.Sync(ctx, client.SyncRequest{Filter: overviewFilter})
	if err != nil {
		return nil // joining will tell what is wrong
	}
	for _, v := range roomViews(answer, s.me.User) {
		if string(v.ID) == room && v.InvitedBy != "" {
			return []id.ServerName{v.InvitedBy.Server()}
		}
	}
	return nil
}

// catchUpFilter asks for keys and what concerns the encryption of rooms, not for messages.
var catchUpFilter = json.RawMessage(`{"presence":{"types":[]},"account_data":{"types":[]},"room":{"ephemeral":{"types":[]},` +
	`"account_data":{"types":[]},"timeline":{"limit":1,"types":["m.room.encryption"]},"state":{"types":["m.room.encryption"]}}}`)

// maxCatchUps bounds how many answers full of keys are taken in before a command goes on.
const maxCatchUps = 50

// catchUp takes in what happened since the last run.
func (s *session) catchUp(ctx context.Context) error {
	for range maxCatchUps {
		answer, err := s.client.Sync(ctx, client.SyncRequest{Since: s.since(), Filter: catchUpFilter})
		if err != nil {
			return err
		}
		if err := s.take(ctx, answer); err != nil {
			return err
		}
		if len(answer.ToDevice.Events) == 0 {
			return nil
		}
	}
	return nil
}

// take takes in an answer to /sync. What is kept of it is durable before the position advances, which receive does:
// once the server is asked for what comes after, it forgets the keys that it delivered.
func (s *session) take(ctx context.Context, answer *client.SyncAnswer) error {
	if err := s.notice(answer); err != nil {
		return err
	}
	if err := s.receive(answer); err != nil {
		return err
	}
	return s.flush(ctx)
}

// sendOptions is how a message is to be sent.
type sendOptions struct {
	verifiedOnly bool
	verifying    id.UserID // whose devices have to be able to read it, since it is about their verification
}

// send sends a message, encrypted if the room is.
func (s *session) send(ctx context.Context, room id.RoomID, kind, txn string, content any, options sendOptions) (message, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return message{}, fmt.Errorf("encoding the message: %w", err)
	}
	raw := json.RawMessage(encoded)
	facts, err := s.facts(ctx, room)
	if err != nil {
		return message{}, err
	}
	if err := facts.sendable(room); err != nil {
		return message{}, err
	}
	m := message{Room: room, Sender: s.me.User, Device: s.me.Device, Time: time.Now().UnixMilli(), Type: kind, Content: raw,
		Encrypted: facts.Encrypted, State: stateSent}
	if facts.Encrypted {
		var sealed json.RawMessage
		if sealed, err = s.seal(ctx, room, kind, raw, facts, options); err != nil {
			return message{}, err
		}
		m.Trust, m.Reason, m.Related = e2ee.Green, "encrypted by this session", e2ee.Green
		m.ID, err = s.client.Send(ctx, room, "m.room.encrypted", txn, sealed)
	} else {
		m.Reason = reasonPlain
		m.ID, err = s.client.Send(ctx, room, kind, txn, raw)
	}
	if err != nil {
		return message{}, err
	}
	m.describe()
	return m, nil
}

const reasonPlain = "the room is not encrypted"

// decode makes an event of a room into a message; ok is false for what there is nothing to show of. Only what unseal
// decrypts gets a better mark than red.
func (s *session) decode(room id.RoomID, e client.Event) (m message, ok bool) {
	if len(e.Unsigned.RedactedBecause) > 0 {
		return message{}, false
	}
	m = message{ID: e.ID, Room: room, Sender: e.Sender, Time: e.Timestamp, Type: e.Type, StateKey: e.StateKey, Content: e.Content, State: stateReceived}
	switch {
	case e.Type == "m.room.encrypted" && e.StateKey == nil:
		s.unseal(&m, e)
	case e.StateKey != nil:
		// State is never encrypted: whatever it says, and of whatever type it is, the servers could have made it up.
		m.Reason = "said by the servers, not encrypted"
	default:
		m.Reason = reasonPlain
		if facts, err := s.pinned(room); err == nil && facts.Encrypted {
			m.Reason = "not encrypted, though the room is"
		}
	}
	if !m.undecryptable {
		m.describe()
		m.asksMe = m.To == s.me.User && m.Sender != s.me.User && fresh(m.Time)
	}
	return m, true
}

// fresh says whether a verification that was asked for then can still take place.
func fresh(millis int64) bool {
	age := time.Since(time.UnixMilli(millis))
	return age < verify.Freshness && age > -verify.MaxAhead
}

// memberViews lists a room's members.
func (s *session) memberViews(ctx context.Context, room id.RoomID, all bool) ([]memberView, error) {
	events, err := s.client.Members(ctx, room)
	if err != nil {
		return nil, err
	}
	views := []memberView{}
	var users []id.UserID
	for _, e := range events {
		user, membership := memberOf(e)
		if user == "" || !all && membership != "join" && membership != "invite" {
			continue
		}
		var content struct {
			Name string `json:"displayname"`
		}
		if json.Unmarshal(e.Content, &content) != nil {
			content.Name = ""
		}
		views = append(views, memberView{User: user, Name: content.Name, Membership: membership})
		users = append(users, user)
	}
	if err := s.learnUsers(ctx, users); err != nil {
		return nil, err
	}
	for i := range views {
		views[i].Trust = s.identityOf(views[i].User)
	}
	slices.SortFunc(views, func(x, y memberView) int { return strings.Compare(string(x.User), string(y.User)) })
	return views, nil
}
