package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxDirect is in how many rooms a verification is listened for, maxCandidates how many are looked at for it.
	maxDirect     = 5
	maxCandidates = 20

	recordDirect = "m.direct"
)

// directFilter asks for what shows which rooms are conversations of two.
var directFilter = json.RawMessage(`{"presence":{"types":[]},"account_data":{"types":["m.direct"]},"room":{"ephemeral":{"types":[]},` +
	`"account_data":{"types":[]},"timeline":{"limit":1},"state":{"types":["m.room.encryption"],"lazy_load_members":true}}}`)

// findRooms finds the rooms where the user and this one can verify each other: those that they are both in, and that are
// marked as theirs or have nobody else in them. The first is the one to ask in. An invitation of theirs is accepted if
// there is none yet.
func (l *live) findRooms(ctx context.Context) error {
	answer, err := l.client.Sync(ctx, client.SyncRequest{Filter: directFilter})
	if err != nil {
		return err
	}
	if err := l.notice(answer); err != nil {
		return err
	}
	for _, room := range candidates(answer, l.user) {
		if len(l.rooms) == maxDirect {
			break
		}
		if in, err := l.isIn(ctx, room); err != nil {
			return err
		} else if in {
			l.rooms = append(l.rooms, room)
		}
	}
	if room, ok := invitedBy(answer, l.user, l.me.User); ok && len(l.rooms) == 0 {
		return l.enterRoom(ctx, room)
	}
	return nil
}

// candidates are the rooms of the user and another, the marked ones first.
func candidates(answer *client.SyncAnswer, user id.UserID) []id.RoomID {
	var marked []id.RoomID
	for _, e := range answer.AccountData.Events {
		if e.Type == recordDirect {
			marked = directOf(e.Content)[user]
		}
	}
	const none = 3
	rank := func(room id.RoomID) int {
		summary := answer.Rooms.Join[room].Summary
		switch pair := summary.Joined+summary.Invited == 2; {
		case slices.Contains(marked, room):
			return 0
		case pair && slices.Equal(summary.Heroes, []id.UserID{user}):
			return 1
		case pair && len(summary.Heroes) == 0: // it has a name, so that nobody says who is in it
			return 2
		}
		return none
	}
	rooms := slices.SortedFunc(maps.Keys(answer.Rooms.Join), func(x, y id.RoomID) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x, y))
	})
	rooms = slices.DeleteFunc(rooms, func(room id.RoomID) bool { return rank(room) == none })
	return rooms[:min(len(rooms), maxCandidates)]
}

// directOf reads a content of m.direct. What is not as it should be is left out.
func directOf(content json.RawMessage) map[id.UserID][]id.RoomID {
	var fields map[id.UserID]json.RawMessage
	if json.Unmarshal(content, &fields) != nil {
		return nil
	}
	rooms := map[id.UserID][]id.RoomID{}
	for user, raw := range fields {
		var named []id.RoomID
		if json.Unmarshal(raw, &named) == nil {
			rooms[user] = named
		}
	}
	return rooms
}

// isIn says whether the other user has joined a room.
func (l *live) isIn(ctx context.Context, room id.RoomID) (bool, error) {
	var member struct {
		Membership string `json:"membership"`
	}
	err := l.client.State(ctx, room, "m.room.member", string(l.user), &member)
	var refused *client.Error
	if errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusForbidden) {
		return false, nil
	}
	return member.Membership == "join", err
}

// invitedBy is a conversation of two into which a user has invited this one.
func invitedBy(answer *client.SyncAnswer, user, me id.UserID) (id.RoomID, bool) {
	for _, room := range slices.Sorted(maps.Keys(answer.Rooms.Invite)) {
		for _, e := range answer.Rooms.Invite[room].State.Events {
			var member struct {
				Membership string `json:"membership"`
				Direct     bool   `json:"is_direct"`
			}
			if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == string(me) && e.Sender == user &&
				json.Unmarshal(e.Content, &member) == nil && member.Membership == "invite" && member.Direct {
				return room, true
			}
		}
	}
	return "", false
}

// enterRoom accepts the other user's invitation.
func (l *live) enterRoom(ctx context.Context, room id.RoomID) error {
	l.app.note("Joining %s, into which %s has invited you.", room, l.user)
	if _, err := l.client.Join(ctx, string(room), []id.ServerName{l.user.Server()}); err != nil {
		return err
	}
	l.rooms = append(l.rooms, room)
	return l.markDirect(ctx, l.user, room)
}

// roomToAsk is the encrypted room to ask in; it creates one if there is none. None is the answer for an own device, and if
// no room can be created.
func (l *live) roomToAsk(ctx context.Context) (id.RoomID, error) {
	if l.user == l.me.User {
		return "", nil
	}
	for _, room := range l.rooms {
		if facts, err := l.facts(ctx, room); err != nil {
			return "", err
		} else if facts.Encrypted && facts.sendable(room) == nil {
			return room, nil
		}
	}
	if l.confined {
		return "", fail(exitUsage, `verify in a room of you two, or end the chat and run "securecomm keys verify"`, "nobody else verifies here")
	}
	room, err := l.client.CreateRoom(ctx, client.NewRoom{Preset: "trusted_private_chat", Visibility: "private", Invite: []id.UserID{l.user}, Direct: true,
		InitialState: []client.StateEvent{{Type: "m.room.encryption", Content: map[string]string{"algorithm": megolm}}}})
	var refused *client.Error
	if errors.As(err, &refused) && !client.Temporary(err) {
		l.app.note("Warning: %s can't be asked in a room (%v), and is asked by messages to all devices.", l.user, err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	l.rooms, l.created = append(l.rooms, room), true
	l.app.note("Created %s for you and %s, who has to accept the invitation first.", room, l.user)
	return room, errors.Join(l.pin(room, roomFacts{Encrypted: true, Algorithm: megolm}), l.markDirect(ctx, l.user, room))
}

// markDirect adds a room to those that are marked as conversations with a user.
func (s *session) markDirect(ctx context.Context, user id.UserID, room id.RoomID) error {
	content := map[id.UserID]json.RawMessage{}
	if err := s.client.AccountData(ctx, s.me.User, recordDirect, &content); err != nil && !absent(err) {
		return err
	}
	var rooms []id.RoomID
	if json.Unmarshal(content[user], &rooms) != nil {
		rooms = nil // what makes no sense is replaced
	}
	if slices.Contains(rooms, room) {
		return nil
	}
	encoded, err := json.Marshal(append(rooms, room))
	if err != nil {
		return err
	}
	content[user] = encoded
	return s.client.SetAccountData(ctx, s.me.User, recordDirect, content)
}
