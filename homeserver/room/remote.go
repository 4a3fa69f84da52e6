package room

import (
	"context"
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Remote is what the engine asks of other servers. Events come as they were received: the engine parses and
// verifies each before it does anything with it. Every call has a deadline of its own and bounded answers.
type Remote interface {
	// MakeMembership asks for the template of a "join", "leave" or "knock" of a user.
	MakeMembership(ctx context.Context, server id.ServerName, membership string, room id.RoomID, user id.UserID) (id.RoomVersion, json.RawMessage, error)
	// SendJoin hands in a signed join and gets the room's state before it.
	SendJoin(ctx context.Context, server id.ServerName, join *event.Event) (*Joined, error)
	// SendLeave hands in a signed leave.
	SendLeave(ctx context.Context, server id.ServerName, leave *event.Event) error
	// SendKnock hands in a signed knock and gets stripped state.
	SendKnock(ctx context.Context, server id.ServerName, knock *event.Event) ([]json.RawMessage, error)
	// Invite has the invited user's server sign an invite.
	Invite(ctx context.Context, server id.ServerName, invite *event.Event, stripped []json.RawMessage) (json.RawMessage, error)
	// MissingEvents asks for what lies between earliest and latest, at most limit events.
	MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, earliest, latest []id.EventID, limit int) ([]json.RawMessage, error)
	// Backfill asks for events up to and including some, at most limit.
	Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error)
	// StateIDs asks for the state before an event and the events that authorize that state.
	StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, at id.EventID) (state, auth []id.EventID, err error)
	// State is StateIDs with whole events.
	State(ctx context.Context, server id.ServerName, room id.RoomID, at id.EventID) (state, auth []json.RawMessage, err error)
	// EventAuth asks for the events that authorize an event, recursively.
	EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, at id.EventID) ([]json.RawMessage, error)
	// Event asks for one event.
	Event(ctx context.Context, server id.ServerName, at id.EventID) (json.RawMessage, error)
	// Verify checks hashes and signatures, fetching the keys that it needs, at last from the server that told of the events;
	// that may be empty. There is one result for each event.
	Verify(ctx context.Context, witness id.ServerName, events []*event.Event) []VerifyResult
}

// Joined is a room as another server describes it to who joins.
type Joined struct {
	Event     json.RawMessage // the join, with the other server's signature too if it had to add one; may be empty
	State     []json.RawMessage
	AuthChain []json.RawMessage
	// MembersOmitted says that State lacks most members; Servers are then those in the room.
	MembersOmitted bool
	Servers        []id.ServerName
}

// VerifyResult is a verified event, or why it is not.
type VerifyResult struct {
	Verified event.Verified
	Err      error
	Lacks    id.ServerName // whose key could not be had, if that is why
}
