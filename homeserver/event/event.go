package event

import (
	"encoding/json"
	"errors"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Limits of events (Client-Server API, "Size limits", and the event formats of the room versions).
const (
	// MaxSize is the length in bytes of the canonical JSON of an event, signatures included.
	MaxSize = 65536
	// MaxPrevEvents is how many events an event may follow.
	MaxPrevEvents = 20
	// MaxAuthEvents is how many events an event may name as its authorization.
	MaxAuthEvents = 10
	// MaxFieldLength is the length in bytes of type and state key. From other servers, rooms before version 11 hold
	// longer ones: up to as many code points.
	MaxFieldLength = 255
)

// Event types that the rules of rooms know.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypeJoinRules         = "m.room.join_rules"
	TypePowerLevels       = "m.room.power_levels"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeHistoryVisibility = "m.room.history_visibility"
	TypeAliases           = "m.room.aliases"
	TypeRedaction         = "m.room.redaction"
)

var (
	// ErrMalformed is wrapped by every refusal to read or build an event.
	ErrMalformed = errors.New("malformed event")
	// ErrTooLarge is wrapped, along with ErrMalformed, if an event or one of its fields is over its limit.
	ErrTooLarge = errors.New("event too large")
)

// Event is an event of a room. It never changes once it is made and may be shared between goroutines;
// the slices in it must not be written to.
type Event struct {
	Version        *Version
	ID             id.EventID
	RoomID         id.RoomID // also of m.room.create in version 12, where it is derived from the ID
	Type           string
	StateKey       *string // nil if this is not a state event
	Sender         id.UserID
	Content        json.RawMessage
	PrevEvents     []id.EventID
	AuthEvents     []id.EventID
	Depth          int64 // chosen by the sending server: it orders nothing
	OriginServerTS int64 // milliseconds since 1970
	Redacts        id.EventID
	// JSON is the event as it is stored and federated: canonical, with hashes and signatures, without "unsigned".
	JSON []byte

	membership string
}

// Verified is an event whose hash and signatures were checked against keys that were valid for it, or that was
// hashed and signed here. Only Verify and Build make it.
type Verified struct{ ev *Event }

// Event is the event; nil for the zero Verified.
func (v Verified) Event() *Event { return v.ev }

// StateKeyTuple names a piece of a room's state.
type StateKeyTuple struct{ Type, StateKey string }

// IsState reports whether this is a state event.
func (e *Event) IsState() bool { return e.StateKey != nil }

// StateKeyIs reports whether this is the state event of that type and key.
func (e *Event) StateKeyIs(typ, key string) bool {
	return e.StateKey != nil && e.Type == typ && *e.StateKey == key
}

// Tuple is the piece of state that this event sets; zero if it is not a state event.
func (e *Event) Tuple() StateKeyTuple {
	if e.StateKey == nil {
		return StateKeyTuple{}
	}
	return StateKeyTuple{e.Type, *e.StateKey}
}

// Outline is the event without its content and what it follows, for who keeps very many. Its membership is known.
func (e *Event) Outline() *Event {
	out := *e
	out.Content, out.JSON, out.PrevEvents = nil, nil, nil
	return &out
}

// Membership is the membership in the content of an m.room.member; empty if there is none.
func (e *Event) Membership() string { return e.membership }
