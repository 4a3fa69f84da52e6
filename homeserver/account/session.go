package account

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Requester is who makes a request.
type Requester struct {
	User   id.UserID
	Device id.DeviceID
	Admin  bool
	Unseen bool // it is time to call Seen

	session *session
}

// session is what is remembered of an access token.
type session struct {
	requester Requester
	expiresAt int64        // 0: never
	seenAt    atomic.Int64 // when the database was last told that the device is in use
}

const (
	cachedSessions = 1 << 16
	// sessionLife bounds for how long another process's logout may go unnoticed here.
	sessionLife = 30 * time.Second
	// seenEvery is how exact the time is at which a device was last seen.
	seenEvery = 10 * time.Minute
)

type tokenHash = [sha256.Size]byte

// sessions remembers whose the access tokens are. What was read from the database before a token was
// revoked must not be remembered after it: generation counts the revocations.
type sessions struct {
	cache      *otter.Cache[tokenHash, *session]
	mu         sync.Mutex
	generation uint64
}

func newSessions() *sessions {
	return &sessions{cache: otter.Must(&otter.Options[tokenHash, *session]{
		MaximumSize:      cachedSessions,
		ExpiryCalculator: otter.ExpiryWriting[tokenHash, *session](sessionLife),
	})}
}

func (c *sessions) current() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

func (c *sessions) remember(hash tokenHash, s *session, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.cache.Set(hash, s)
	}
}

func (c *sessions) forget(hashes [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for _, h := range hashes {
		c.cache.Invalidate(tokenHash(h))
	}
}

// Authenticate finds out whose access token it is. ErrTokenExpired means that it can be refreshed,
// ErrUnknownToken that it is good for nothing.
func (s *Service) Authenticate(ctx context.Context, token string) (Requester, error) {
	hash := sha256.Sum256([]byte(token))
	found, ok := s.sessions.cache.GetIfPresent(hash)
	if !ok {
		var err error
		if found, err = s.loadSession(ctx, hash); err != nil {
			return Requester{}, err
		}
	}
	now := time.Now().UnixMilli()
	if found.expiresAt > 0 && found.expiresAt <= now {
		return Requester{}, ErrTokenExpired
	}
	r := found.requester
	r.Unseen = now-found.seenAt.Load() >= seenEvery.Milliseconds()
	return r, nil
}

func (s *Service) loadSession(ctx context.Context, hash tokenHash) (*session, error) {
	generation := s.sessions.current()
	var row store.Session
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var ok bool
		var err error
		if row, ok, err = tx.Tokens.Session(hash[:]); err == nil && (!ok || row.Deactivated) {
			return ErrUnknownToken
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look an access token up: %w", err)
	}
	if row.Replaces != nil {
		// The first use of a refreshed token revokes the one before.
		if err := s.confirm(ctx, row.Token); err != nil {
			return nil, err
		}
		generation = s.sessions.current()
	}
	found := &session{expiresAt: row.ExpiresAt}
	found.requester = Requester{User: row.User, Device: row.Device, Admin: row.Admin, session: found}
	found.seenAt.Store(row.SeenAt)
	s.sessions.remember(hash, found, generation)
	return found, nil
}

func (s *Service) confirm(ctx context.Context, t store.Token) error {
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		current, ok, err := tx.Tokens.Session(t.Access)
		if err != nil {
			return err
		}
		if !ok {
			return ErrUnknownToken
		}
		gone, err := tx.Tokens.Confirm(current.Token)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.sessions.forget(gone) })
		return nil
	})
	if err != nil {
		return fmt.Errorf("note the use of a refreshed token: %w", err)
	}
	return nil
}

// maxAgent is how much of a client's description of itself is kept.
const maxAgent = 256

// Seen notes that a requester's device is in use. It does not wait.
func (s *Service) Seen(r Requester, address, agent string) {
	if r.session == nil {
		return
	}
	now, last := time.Now().UnixMilli(), r.session.seenAt.Load()
	if !r.session.seenAt.CompareAndSwap(last, now) {
		return // somebody else does
	}
	d := store.Device{User: r.User, ID: r.Device, SeenAt: now, SeenAddress: address, SeenAgent: printable(agent)}
	if _, err := s.DB.Queue(context.Background(), func(tx *store.Tx) error { return tx.Devices.SetSeen(d) }); err != nil {
		s.Log.Warn("cannot note when a device was seen", "err", err)
	}
}

// printable is the beginning of what a client says of itself, without what a database refuses.
func printable(agent string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(agent[:min(len(agent), maxAgent)], ""))
}
