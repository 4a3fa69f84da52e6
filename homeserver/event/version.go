package event

import (
	"math"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// DefaultVersion is the version of rooms created here unless the client asks for another.
const DefaultVersion id.RoomVersion = "12"

// EventIDFormat says where the ID of an event comes from.
type EventIDFormat int

const (
	// EventIDInEvent is a member of the event, chosen by the server that made it (versions 1 and 2).
	EventIDInEvent EventIDFormat = iota
	// EventIDBase64 is the reference hash in standard base64 (version 3).
	EventIDBase64
	// EventIDURLSafe is the reference hash in URL-safe base64 (version 4 and later).
	EventIDURLSafe
)

// StateRes names a state resolution algorithm.
type StateRes int

const (
	// StateResV1 is the algorithm of room version 1.
	StateResV1 StateRes = iota
	// StateResV2 is the algorithm of room versions 2 to 11.
	StateResV2
	// StateResV21 is the algorithm of room version 12: version 2 from an empty starting state, with
	// the conflicted state subgraph.
	StateResV21
)

// Version is what is particular to a room version. Each is the one before it with its named changes;
// the comment behind a fact is the version that brought it.
type Version struct {
	ID       id.RoomVersion
	EventIDs EventIDFormat
	StateRes StateRes

	// Format, hashes and signatures.

	EnforceKeyValidity bool  // 5: a signing key must have been valid at origin_server_ts
	StrictJSON         bool  // 6: canonical JSON is enforced
	MaxDepth           int64 // 6: at most 2^53-1; what strangers claim may be the largest
	RedactsInContent   bool  // 11: "redacts" moves from the top level into content
	FieldBytes         bool  // 11: type and state key are limited in bytes; before, servers in use count code points

	// What the redaction algorithm keeps.

	AliasesRedaction        bool // until 5: "aliases" of m.room.aliases
	JoinRulesAllowRedaction bool // 8: "allow" of m.room.join_rules
	RestrictedJoinRedaction bool // 9: "join_authorised_via_users_server" of m.room.member
	UpdatedRedaction        bool // 11: all of m.room.create, "redacts", "invite" level, signed third-party invites; no "origin", "membership", "prev_state"

	// Authorization rules.

	RedactionAuth        bool // until 2: redactions are authorized by redact level or server
	AliasesAuth          bool // until 5: m.room.aliases has a rule of its own
	NotificationsAuth    bool // 6: "notifications" of m.room.power_levels is checked
	Knock                bool // 7: join rule and membership "knock"
	RestrictedJoin       bool // 8: join rule "restricted"
	KnockRestricted      bool // 10: join rule "knock_restricted"
	IntegerPowerLevels   bool // 10: power levels may be nothing but integers
	UseCreateSender      bool // 11: the creator is the sender of m.room.create, not its "creator"
	PrivilegedCreators   bool // 12: creators, also additional ones, are above all power levels
	RoomIDIsCreateHash   bool // 12: the room ID is the reference hash of m.room.create, which has no room_id itself
	NoCreateInAuthEvents bool // 12: m.room.create is implied and not listed in auth_events
}

// versions is written once, here, and never changed.
var versions = makeVersions()

// VersionOf is the version with that name; false if this server does not support it.
func VersionOf(name id.RoomVersion) (*Version, bool) {
	for i := range versions {
		if versions[i].ID == name {
			return &versions[i], true
		}
	}
	return nil, false
}

// Versions names all supported room versions, oldest first.
func Versions() []id.RoomVersion {
	names := make([]id.RoomVersion, len(versions))
	for i := range versions {
		names[i] = versions[i].ID
	}
	return names
}

func makeVersions() []Version {
	v := Version{ID: "1", StateRes: StateResV1, MaxDepth: math.MaxInt64, RedactionAuth: true, AliasesAuth: true, AliasesRedaction: true}
	all := []Version{v}
	next := func(name id.RoomVersion, change func()) {
		v.ID = name
		change()
		all = append(all, v)
	}
	next("2", func() { v.StateRes = StateResV2 })
	next("3", func() { v.EventIDs, v.RedactionAuth = EventIDBase64, false })
	next("4", func() { v.EventIDs = EventIDURLSafe })
	next("5", func() { v.EnforceKeyValidity = true })
	next("6", func() {
		v.StrictJSON, v.MaxDepth, v.NotificationsAuth = true, canonicaljson.MaxInteger, true
		v.AliasesAuth, v.AliasesRedaction = false, false
	})
	next("7", func() { v.Knock = true })
	next("8", func() { v.RestrictedJoin, v.JoinRulesAllowRedaction = true, true })
	next("9", func() { v.RestrictedJoinRedaction = true })
	next("10", func() { v.KnockRestricted, v.IntegerPowerLevels = true, true })
	next("11", func() {
		v.UpdatedRedaction, v.RedactsInContent, v.UseCreateSender, v.FieldBytes = true, true, true, true
	})
	next("12", func() {
		v.StateRes = StateResV21
		v.PrivilegedCreators, v.RoomIDIsCreateHash, v.NoCreateInAuthEvents = true, true, true
	})
	return all
}
