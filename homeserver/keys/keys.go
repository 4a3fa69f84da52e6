package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Limits of what is accepted.
const (
	maxName             = 255       // bytes of a device ID, an algorithm or a key's name
	maxIdentity         = 32 << 10  // bytes of a device's identity keys or of a cross-signing key
	maxObjectSignatures = 64        // signatures that identity keys or a cross-signing key come with
	maxOneTimeKey       = 4 << 10   // bytes of a one-time or fallback key
	maxOneTimeKeys      = 1000      // one-time keys of a device
	maxFallbackKeys     = 16        // fallback keys of a device
	maxClaimed          = 10_000    // claimed keys of a user that are remembered
	maxRemoteDevices    = 200       // devices of a remote user that are taken
	lookStep            = 500       // devices that are looked up at a time
	claimStep           = 100       // devices of which one update claims keys
	maxSignatures       = 500       // signed objects in one request
	signatureStep       = 20        // of these, that one update takes; fewer if many servers hear of it
	maxServers          = 1000      // other servers that one message is sent to
	maxMessages         = 4000      // devices that one message is sent to: no more that are encrypted fit into a request
	maxMessage          = 64 << 10  // bytes of the content of one message
	maxDelivery         = 8 << 20   // bytes that one request puts into inboxes
	maxInbox            = 20_000    // messages that wait for one device
	maxInboxBytes       = 32 << 20  // bytes of these messages
	pruneInboxesAfter   = 64 << 20  // bytes that are delivered, if it is not time for it anyway
	dropStep            = 500       // messages that one update takes out of an inbox
	strangerStep        = 5         // users nobody here shares a room with any longer, of whom one update deletes all devices
	messageOverhead     = 2 << 10   // bytes that a message counts as then, beside its own
	maxBackupKeys       = 1_000_000 // keys in a backup
	maxBackupSize       = 256 << 20 // bytes of the keys in all backups of a user
	maxBackupVersions   = 10_000    // that a user may ever make
	maxBackupsKept      = 100       // of these, that are not deleted
	maxSessionData      = 64 << 10  // bytes of a key in a backup
	backupBytes         = 1 << 20   // bytes of those that are written or read at a time
	backupStep          = 200       // keys that are written, read or deleted at a time
	maxUserKeys         = 4 << 20   // bytes of the one-time and fallback keys of all devices of a user
	maxUserIdentity     = 2 << 20   // bytes of the identity keys of all devices of a user; of a remote one they are taken up to that
	maxAnswer           = 8 << 20   // bytes of the keys of all users in one answer
	cacheStep           = 1 << 20   // bytes of lists that one update caches, unless it is a single one
)

// The refusals of this package.
var (
	ErrInvalid          = errors.New("invalid")
	ErrMissing          = errors.New("incomplete")
	ErrNotOwn           = errors.New("this belongs to another user or device")
	ErrNotFound         = errors.New("not found")
	ErrTooLarge         = errors.New("too large")
	ErrKeyExists        = errors.New("a different one-time key has the same name")
	ErrIdentityFixed    = errors.New("the identity keys of a device do not change: log in anew to have others")
	ErrInvalidSignature = errors.New("the signature is not valid")
	ErrNoMasterKey      = errors.New("there is no master key")
	ErrKeyInUse         = errors.New("the key's name is that of one of the user's devices")
	ErrNeedsAuth        = errors.New("the user has to authenticate again to change cross-signing keys")
)

// Remote is what the service asks of other servers. Answers are bounded; what they say is checked here.
type Remote interface {
	// QueryKeys asks for the keys of users of one server; an empty list means all devices.
	QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID) (*Published, error)
	// ClaimKeys claims one-time keys of users of one server.
	ClaimKeys(ctx context.Context, server id.ServerName, wants Wants) (Claimed, error)
	// UserDevices asks for the list of a user's devices.
	UserDevices(ctx context.Context, server id.ServerName, user id.UserID) (*UserDevices, error)
}

// Published are keys as they are published, in the form of both APIs.
type Published struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys,omitempty"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys,omitempty"`
	UserSigningKeys map[id.UserID]json.RawMessage                 `json:"user_signing_keys,omitempty"` // only the requester's own

	size int
}

// Size is about how many bytes they have.
func (p *Published) Size() int { return p.size }

// UserDevices is the list of a user's devices (Server-Server API, GET /user/devices/{userId}).
type UserDevices struct {
	UserID         id.UserID       `json:"user_id"`
	StreamID       int64           `json:"stream_id"`
	Devices        []UserDevice    `json:"devices"`
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is one device in a UserDevices.
type UserDevice struct {
	DeviceID    id.DeviceID     `json:"device_id"`
	Keys        json.RawMessage `json:"keys"`
	DisplayName string          `json:"device_display_name,omitempty"`
}

type (
	// Wants says of which devices a key of which algorithm is wanted.
	Wants map[id.UserID]map[id.DeviceID]string
	// Claimed are keys given out, under their full names.
	Claimed map[id.UserID]map[id.DeviceID]map[string]json.RawMessage
	// Failures are the servers that could not be asked, with the reason.
	Failures map[id.ServerName]error
)

// Service holds the keys. Fill the fields before use; all methods may be called concurrently.
type Service struct {
	Store  *store.DB
	Server id.ServerName
	Remote Remote // nil: there are no other servers
	Log    *slog.Logger

	delivered atomic.Int64 // bytes put into inboxes since they were last pruned for it
}

const (
	defaultTimeout = 10 * time.Second
	maxTimeout     = 30 * time.Second
)

// timeout is how long to wait for other servers if a client asked for so much.
func timeout(asked time.Duration) time.Duration {
	if asked <= 0 {
		return defaultTimeout
	}
	return min(asked, maxTimeout)
}

func (s *Service) isLocal(user id.UserID) bool { return user.Server() == s.Server }

// checkName refuses what cannot name a device or a key.
func checkName(name, what string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("%w: %s has 1 to %d bytes", ErrInvalid, what, maxName)
	}
	for i := range len(name) {
		if name[i] < 0x20 || name[i] == 0x7f {
			return fmt.Errorf("%w: %s has no control characters", ErrInvalid, what)
		}
	}
	return nil
}

// canonicalObject brings an object that is to be stored, with not too many signatures, into canonical form without "unsigned".
func canonicalObject(raw json.RawMessage, limit int, what string) ([]byte, error) {
	if len(raw) > limit {
		return nil, fmt.Errorf("%s: %w: at most %d bytes", what, ErrTooLarge, limit)
	}
	canonical, err := canonicaljson.Canonicalize(raw)
	if err != nil || canonical[0] != '{' {
		return nil, fmt.Errorf("%s: %w: not an object of canonical JSON", what, ErrInvalid)
	}
	n := 0
	for _, signatures := range canonicaljson.Members(canonicaljson.Get(canonical, "signatures")) {
		of := 0
		for range canonicaljson.Members(signatures) {
			of++
		}
		n += max(1, of) // a signer without any counts, too
	}
	if n > maxObjectSignatures {
		return nil, fmt.Errorf("%s: %w: at most %d signatures", what, ErrTooLarge, maxObjectSignatures)
	}
	return canonicaljson.Without(canonical, "unsigned"), nil
}
