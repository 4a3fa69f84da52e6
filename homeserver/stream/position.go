package stream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Position is a place in the log: 1, 2, 3 … for what happened here, and -1, -2, … for history that was
// fetched from other servers afterwards. Zero is before everything that happened here.
type Position int64

// Token is where a reader of the log stands: how far it has read the durable log, in which epoch that was written, and how
// far the volatile one (typing and presence), which begins anew with every process.
type Token struct {
	Position Position
	Volatile int64
	Epoch    string // empty: from before there were epochs
	// Owed are events of which the reader was told, but has not yet been told that others take their place: numbers of
	// state events in timelines that set what the state of their room has from another event.
	Owed []int64
}

// MaxOwed is how many events a token may name.
const MaxOwed = 4

// ErrBadToken is returned by ParseToken for what was not made by Token.String.
var ErrBadToken = errors.New("not a token of this server")

// maxToken is how long a token may be, in bytes.
const maxToken = 160

// String is the token's form on the wire: "s12_3_EPOCH", or "s12_3_EPOCH_7.9" with what is owed; "s12" or "s12_3" without
// an epoch.
func (t Token) String() string {
	out := "s" + strconv.FormatInt(int64(t.Position), 10)
	if t.Volatile != 0 || t.Epoch != "" || len(t.Owed) > 0 {
		out += "_" + strconv.FormatInt(t.Volatile, 10)
	}
	if t.Epoch != "" || len(t.Owed) > 0 {
		out += "_" + t.Epoch
	}
	for i, n := range t.Owed {
		sign := "."
		if i == 0 {
			sign = "_"
		}
		out += sign + strconv.FormatInt(n, 10)
	}
	return out
}

// ParseToken reads what String wrote. What the token is worth says Hub.Judge.
func ParseToken(s string) (Token, error) {
	rest, ok := strings.CutPrefix(s, "s")
	if !ok || len(s) > maxToken {
		return Token{}, fmt.Errorf("%w: %.64q", ErrBadToken, s)
	}
	head, tail, split := strings.Cut(rest, "_")
	tail, epoch, _ := strings.Cut(tail, "_")
	epoch, names, some := strings.Cut(epoch, "_")
	p, err := strconv.ParseInt(head, 10, 64)
	var v int64
	if err == nil && split {
		v, err = strconv.ParseInt(tail, 10, 64)
	}
	t := Token{Position: Position(p), Volatile: v, Epoch: epoch}
	for some && err == nil && len(t.Owed) < MaxOwed {
		var one string
		var n int64
		one, names, some = strings.Cut(names, ".")
		n, err = strconv.ParseInt(one, 10, 64)
		t.Owed = append(t.Owed, n)
	}
	if err != nil || t.String() != s {
		return Token{}, fmt.Errorf("%w: %q", ErrBadToken, s)
	}
	return t, nil
}

// Kind says what a change is a change of.
type Kind uint8

// The kinds of changes in the log.
const (
	Event       Kind = iota + 1 // an event was appended to a room: Room, NID, Members, Moved
	Receipt                     // a receipt in Room by User
	AccountData                 // account data of User, in Room if not empty
	ToDevice                    // a to-device message for User's Device
	DeviceList                  // the devices or the cross-signing keys of User changed
	KeyCount                    // the one-time keys of User's Device changed in number
	Profile                     // the profile of User changed
	Outbound                    // an ephemeral data unit for Servers
)

// Change is one entry of the log, without its content.
type Change struct {
	Position Position
	Kind     Kind
	Room     id.RoomID
	User     id.UserID
	Device   id.DeviceID
	NID      int64 // of an Event: the number under which the store keeps it
	// Members says that memberships in the room changed with an Event, which need be no m.room.member: it may tie branches
	// of the room together. Moved are those of them who are of this server.
	Members bool
	Moved   []id.UserID
	// Wake names the users whose syncs have to look at the change.
	Wake []id.UserID
	// Servers are those that the change has to be delivered to.
	Servers []id.ServerName
}
