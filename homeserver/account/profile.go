package account

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The profile fields that rooms are told of.
const (
	FieldDisplayName = "displayname"
	FieldAvatarURL   = "avatar_url"
	fieldTimeZone    = "m.tz"
)

const (
	maxProfile     = 64 << 10
	maxField       = 255
	maxDisplayName = 256 // characters, as other servers have it
	maxAvatarURL   = 1000
	maxTimeZone    = 255
)

// Profile reads the profile of a user of any server; only the field named, unless it is empty.
func (s *Service) Profile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	if !s.Owns(user) {
		return s.remoteProfile(ctx, user, field)
	}
	var profile map[string]json.RawMessage
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		u, ok, err := tx.Users.Get(user)
		if err != nil {
			return err
		}
		if !ok || u.Erased {
			return fmt.Errorf("profile: %w", ErrNotFound)
		}
		profile, err = tx.Profiles.Get(user)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pick(profile, field)
}

func (s *Service) remoteProfile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	if s.RemoteProfile == nil {
		return nil, fmt.Errorf("profile of a user of %s: %w", user.Server(), ErrNotFound)
	}
	profile, err := s.RemoteProfile(ctx, user, field)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return pick(profile, field)
}

func pick(profile map[string]json.RawMessage, field string) (map[string]json.RawMessage, error) {
	if field == "" {
		return profile, nil
	}
	value, ok := profile[field]
	if !ok {
		return nil, fmt.Errorf("profile field: %w", ErrNotFound)
	}
	return map[string]json.RawMessage{field: value}, nil
}

// SetProfileField writes a field of a local user's profile. Rooms are told of names and avatars soon after.
func (s *Service) SetProfileField(ctx context.Context, user id.UserID, field string, value json.RawMessage) error {
	folded, remove, err := checkField(field, value)
	if err != nil {
		return err
	}
	if remove {
		return s.DeleteProfileField(ctx, user, field)
	}
	var told bool
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		profile, err := tx.Profiles.Get(user)
		if err != nil {
			return err
		}
		if bytes.Equal(profile[field], value) {
			told = false
			return nil
		}
		profile[field] = value
		if profileSize(profile) > maxProfile {
			return ErrProfileTooLarge
		}
		if err := tx.Profiles.Set(user, field, value, folded); err != nil {
			return err
		}
		told, err = true, s.tellRooms(tx, user, field)
		return err
	})
	if err != nil {
		return fmt.Errorf("set a profile field: %w", err)
	}
	if told {
		s.wakeErrands()
	}
	return nil
}

// DeleteProfileField removes a field of a local user's profile, if it is there.
func (s *Service) DeleteProfileField(ctx context.Context, user id.UserID, field string) error {
	if err := checkFieldName(field); err != nil {
		return err
	}
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		found, err := tx.Profiles.Delete(user, field)
		if err != nil || !found {
			return err
		}
		return s.tellRooms(tx, user, field)
	})
	if err != nil {
		return fmt.Errorf("delete a profile field: %w", err)
	}
	s.wakeErrands()
	return nil
}

func (s *Service) tellRooms(tx *store.Tx, user id.UserID, field string) error {
	switch field {
	case FieldDisplayName:
		return tx.Errands.Add(user, errandName)
	case FieldAvatarURL:
		return tx.Errands.Add(user, errandAvatar)
	}
	return nil
}

// profileSize is the size of a profile as JSON, near enough.
func profileSize(profile map[string]json.RawMessage) int {
	n := len("{}")
	for field, value := range profile {
		n += len(field) + len(value) + len(`"":,`)
	}
	return n
}

// checkField checks a name and its value. Empty names and avatars mean that there is none. An avatar ought
// to be an MXC URI, but as other servers take any text, clients have to expect any.
func checkField(field string, value json.RawMessage) (folded string, remove bool, err error) {
	if err := checkFieldName(field); err != nil {
		return "", false, err
	}
	if err := checkJSON(value); err != nil {
		return "", false, err
	}
	var limit int
	switch field {
	case FieldDisplayName:
		limit = maxDisplayName
	case FieldAvatarURL:
		limit = maxAvatarURL
	case fieldTimeZone:
		limit = maxTimeZone
	default:
		return "", false, nil
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil {
		return "", false, fmt.Errorf("%w: %s must be a string", ErrInvalidParam, field)
	}
	if text == nil || *text == "" {
		return "", true, nil
	}
	switch {
	case utf8.RuneCountInString(*text) > limit:
		return "", false, fmt.Errorf("%w: %s has at most %d characters", ErrInvalidParam, field, limit)
	case checkText(*text) != nil:
		return "", false, checkText(*text)
	case field == FieldDisplayName:
		folded = glob.Fold(*text)
	}
	return folded, false, nil
}

// checkFieldName accepts the three names of the specification and namespaced identifiers (Appendices,
// "Common Namespaced Identifier Grammar").
func checkFieldName(field string) error {
	if len(field) > maxField {
		return ErrKeyTooLarge
	}
	if field == FieldDisplayName || field == FieldAvatarURL {
		return nil
	}
	ok := strings.Contains(field, ".") && field[0] >= 'a' && field[0] <= 'z'
	for _, c := range []byte(field) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._-", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("%w: not the name of a profile field", ErrInvalidParam)
	}
	return nil
}
