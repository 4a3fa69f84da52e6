package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
)

// megolm is the one algorithm that rooms are encrypted with.
const megolm = "m.megolm.v1.aes-sha2"

// roomFacts is what is known of a room's encryption. Once seen to be encrypted, a room stays so in the eyes of
// this client, whatever a server says later.
type roomFacts struct {
	Encrypted      bool   `json:"encrypted"`
	Algorithm      string `json:"algorithm,omitempty"`
	RotateMS       int64  `json:"rotation_period_ms,omitempty"`
	RotateMessages int64  `json:"rotation_period_msgs,omitempty"`
}

// pin remembers that a room is encrypted.
func (s *session) pin(room id.RoomID, facts roomFacts) error {
	s.roomFacts[room] = facts
	return s.profile.store(recordRoom+string(room), facts)
}

// pinned is what was remembered of a room, if anything.
func (s *session) pinned(room id.RoomID) (roomFacts, error) {
	var facts roomFacts
	_, err := s.profile.load(recordRoom+string(room), &facts)
	return facts, err
}

// facts finds out whether a room is encrypted, asking the server once per run.
func (s *session) facts(ctx context.Context, room id.RoomID) (roomFacts, error) {
	if facts, ok := s.roomFacts[room]; ok {
		return facts, nil
	}
	known, err := s.pinned(room)
	if err != nil {
		return roomFacts{}, err
	}
	var content json.RawMessage
	err = s.client.State(ctx, room, "m.room.encryption", "", &content)
	var refused *client.Error
	switch {
	case err == nil && (algorithmOf(content) != "" || known.Encrypted):
		return s.learn(room, content)
	case err == nil:
		// Not what the specification has; to take it for "not encrypted" would be a guess.
		return roomFacts{}, fail(exitUnsafe, "try again, or ask the server's administrator", "the server does not say whether %s is encrypted", room)
	case !errors.As(err, &refused) || refused.Status != http.StatusNotFound:
		return roomFacts{}, err
	case known.Encrypted:
		s.app.note("Warning: the server says that %s is not encrypted, but it was. Messages stay encrypted.", room)
	}
	s.roomFacts[room] = known
	return known, nil
}

func algorithmOf(content json.RawMessage) string {
	var fields roomFacts
	if json.Unmarshal(content, &fields) != nil {
		return ""
	}
	return fields.Algorithm
}

// learn takes in the content of a room's m.room.encryption. Any such event means that the room is encrypted,
// even one that makes no sense.
func (s *session) learn(room id.RoomID, content json.RawMessage) (roomFacts, error) {
	known, err := s.pinned(room)
	if err != nil {
		return roomFacts{}, err
	}
	fresh := roomFacts{}
	if json.Unmarshal(content, &fresh) != nil {
		fresh = roomFacts{}
	}
	fresh.Encrypted = true
	if known.Encrypted && fresh.Algorithm != megolm {
		fresh = known // an event that breaks the encryption is taken for no event
	}
	if fresh == known {
		s.roomFacts[room] = known
		return known, nil
	}
	return fresh, s.pin(room, fresh)
}

// sendable refuses rooms that are encrypted in a way that is not known here.
func (f roomFacts) sendable(room id.RoomID) error {
	if f.Encrypted && f.Algorithm != megolm {
		return fail(exitUnsafe, "use a client that knows this encryption; nothing is sent unencrypted into such a room",
			"%s is encrypted by %q, which is not known here", room, f.Algorithm)
	}
	return nil
}

// recipients are the users who are to read what is sent: the members, and the invited where the room lets them
// see what was said before they joined.
func (s *session) recipients(ctx context.Context, room id.RoomID) (audience, error) {
	if found, ok := s.audiences[room]; ok {
		return found, nil
	}
	var visibility struct {
		Value string `json:"history_visibility"`
	}
	err := s.client.State(ctx, room, "m.room.history_visibility", "", &visibility)
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		visibility.Value, err = "shared", nil
	}
	if err != nil {
		return audience{}, err
	}
	events, err := s.client.Members(ctx, room)
	if err != nil {
		return audience{}, err
	}
	found := audience{visibility: visibility.Value}
	for _, e := range events {
		user, membership := memberOf(e)
		if membership == "join" || membership == "invite" && visibility.Value != "joined" {
			found.users = append(found.users, user)
		}
	}
	s.audiences[room] = found
	return found, nil
}

// audience is who reads a room.
type audience struct {
	users      []id.UserID
	visibility string
}

// memberOf reads a membership event; the user is empty if it is none.
func memberOf(e client.Event) (user id.UserID, membership string) {
	var content struct {
		Membership string `json:"membership"`
	}
	if e.Type != "m.room.member" || e.StateKey == nil || json.Unmarshal(e.Content, &content) != nil {
		return "", ""
	}
	user, err := id.ParseUserID(*e.StateKey)
	if err != nil {
		return "", ""
	}
	return user, content.Membership
}

// notice takes in what a sync says of rooms: their encryption, and that their members changed.
func (s *session) notice(answer *client.SyncAnswer) error {
	for room, joined := range answer.Rooms.Join {
		if joined.Timeline.Limited {
			delete(s.audiences, room) // who left may be among what was left out
		}
		for _, events := range []client.Events{joined.State.Events, joined.Timeline.Events} {
			for _, e := range events {
				if e.StateKey == nil {
					continue
				}
				switch e.Type {
				case "m.room.member", "m.room.history_visibility":
					delete(s.audiences, room)
				case "m.room.encryption":
					if _, err := s.learn(room, e.Content); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
