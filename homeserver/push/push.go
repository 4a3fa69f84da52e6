package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Service keeps rules and pushers. Make it with New.
type Service struct {
	Store *store.DB
	Log   *slog.Logger

	compiled *otter.Cache[id.UserID, compiled]
}

// cachedUsers is for how many users rules are kept ready.
const cachedUsers = 1 << 12

type compiled struct {
	content string // what the rules were made of
	rules   *pushrule.Rules
}

// New makes a Service.
func New(db *store.DB, log *slog.Logger) *Service {
	return &Service{
		Store: db, Log: log,
		compiled: otter.Must(&otter.Options[id.UserID, compiled]{MaximumSize: cachedUsers}),
	}
}

// Ruleset reads the rules of a user.
func (s *Service) Ruleset(ctx context.Context, user id.UserID) (set pushrule.Ruleset, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		set, err = s.read(tx, user)
		return err
	})
	return set, err
}

func (s *Service) read(tx *store.Tx, user id.UserID) (pushrule.Ruleset, error) {
	content, _, err := tx.AccountData.Get(user, "", pushrule.AccountDataType)
	if err != nil {
		return pushrule.Ruleset{}, fmt.Errorf("read push rules: %w", err)
	}
	return s.parse(user, content), nil
}

// parse reads stored rules. Broken ones count as none: they must not keep their owner from syncing.
func (s *Service) parse(user id.UserID, content json.RawMessage) pushrule.Ruleset {
	if len(content) == 0 {
		content = nil
	}
	set, err := pushrule.Parse(user, content)
	if err != nil {
		s.Log.Warn("a user's push rules are not readable; the predefined ones apply", "user", user, "err", err)
	}
	return set
}

// Content is the rules as account data. A user who never changed them has none in the store, but sees them.
func (s *Service) Content(tx *store.Tx, user id.UserID) (json.RawMessage, error) {
	set, err := s.read(tx, user)
	if err != nil {
		return nil, err
	}
	return set.JSON()
}

// Rules are the rules of a user ready for evaluation.
func (s *Service) Rules(tx *store.Tx, user id.UserID) (*pushrule.Rules, error) {
	content, _, err := tx.AccountData.Get(user, "", pushrule.AccountDataType)
	if err != nil {
		return nil, fmt.Errorf("read push rules: %w", err)
	}
	if c, ok := s.compiled.GetIfPresent(user); ok && c.content == string(content) {
		return c.rules, nil
	}
	rules := s.parse(user, content).Compile(user)
	s.compiled.Set(user, compiled{string(content), rules})
	return rules, nil
}

// errChanged says that rules were changed by somebody else in between.
var errChanged = errors.New("the push rules have changed meanwhile")

// Change changes the rules of a user and tells the user's clients. What edit returns as an error is returned, and
// nothing is changed. Edit may be called more than once. Rules are large and are read and written outside of the update,
// for which others wait: it takes place only if nothing has changed meanwhile.
func (s *Service) Change(ctx context.Context, user id.UserID, edit func(*pushrule.Ruleset) error) error {
	for {
		err := s.tryChange(ctx, user, edit)
		if !errors.Is(err, errChanged) || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Service) tryChange(ctx context.Context, user id.UserID, edit func(*pushrule.Ruleset) error) error {
	var before json.RawMessage
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		before, _, err = tx.AccountData.Get(user, "", pushrule.AccountDataType)
		return err
	})
	if err != nil {
		return fmt.Errorf("read push rules: %w", err)
	}
	set := s.parse(user, before)
	if err := edit(&set); err != nil {
		return err
	}
	content, err := set.JSON()
	if err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		now, _, err := tx.AccountData.Get(user, "", pushrule.AccountDataType)
		if err != nil {
			return fmt.Errorf("read push rules: %w", err)
		}
		if !bytes.Equal(now, before) {
			return errChanged
		}
		tx.AccountData.Set(user, "", pushrule.AccountDataType, content)
		return nil
	})
}

// CopyRoom gives users the rules for a room that they have for its predecessor.
func (s *Service) CopyRoom(ctx context.Context, users []id.UserID, from, to id.RoomID) error {
	for _, user := range users {
		set, err := s.Ruleset(ctx, user)
		if err != nil {
			return err
		}
		if !set.CopyRoom(from, to) {
			continue
		}
		err = s.Change(ctx, user, func(set *pushrule.Ruleset) error {
			set.CopyRoom(from, to)
			return nil
		})
		if err != nil {
			return fmt.Errorf("copy push rules of %s: %w", user, err)
		}
	}
	return nil
}
