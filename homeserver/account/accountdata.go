package account

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// MaxAccountData is how many bytes a piece of account data may have.
	MaxAccountData = 256 << 10
	maxDataType    = 255
	maxDataPieces  = 20_000
	// maxDataSize is how many bytes of account data a user has in all: a first sync tells all of it.
	maxDataSize = 10 << 20
	maxTags     = 100
)

// Types of account data with endpoints of their own (Client-Server API, "Server Behaviour" of account data).
const (
	typeFullyRead = "m.fully_read"
	typePushRules = "m.push_rules"
	typeTags      = "m.tag"
	typeDirect    = "m.direct"
)

// AccountData reads a piece of a user's account data; the global one if the room is empty.
func (s *Service) AccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string) (json.RawMessage, error) {
	var content json.RawMessage
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var ok bool
		var err error
		if content, ok, err = tx.AccountData.Get(user, room, typ); err == nil && !ok {
			return fmt.Errorf("account data: %w", ErrNotFound)
		}
		return err
	})
	return content, err
}

// SetAccountData writes a piece of account data, a JSON object.
func (s *Service) SetAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string, content json.RawMessage) error {
	if typ == typeFullyRead || typ == typePushRules {
		return fmt.Errorf("%w: %s", ErrProtected, typ)
	}
	if err := checkData(typ, content); err != nil {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		former, exists, err := tx.AccountData.Get(user, room, typ)
		if err != nil {
			return err
		}
		return putData(tx, dataKey{user, room, typ}, former, exists, content)
	})
}

// dataKey names a piece of account data.
type dataKey struct {
	user id.UserID
	room id.RoomID
	typ  string
}

// checkData refuses what is no account data. It looks at all of it, and is called before the update that others wait for.
func checkData(typ string, content json.RawMessage) error {
	switch {
	case typ == "" || len(typ) > maxDataType || checkText(typ) != nil:
		return fmt.Errorf("%w: a type of account data has 1 to %d bytes", ErrInvalidParam, maxDataType)
	case len(content) > MaxAccountData:
		return fmt.Errorf("account data: %w: at most %d bytes are kept for a type", ErrTooLarge, MaxAccountData)
	}
	return checkJSON(content)
}

// editData replaces a piece of account data by what is made of it; nil leaves it as it is. That is done before the update,
// and again if the piece has changed meanwhile.
func (s *Service) editData(ctx context.Context, k dataKey, edit func(former json.RawMessage) (json.RawMessage, error)) error {
	for {
		var former json.RawMessage
		err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
			former, _, err = tx.AccountData.Get(k.user, k.room, k.typ)
			return err
		})
		if err != nil {
			return err
		}
		content, err := edit(former)
		if err != nil || content == nil {
			return err
		}
		if err := checkData(k.typ, content); err != nil {
			return err
		}
		same := false
		err = s.DB.Update(ctx, func(tx *store.Tx) error {
			now, exists, err := tx.AccountData.Get(k.user, k.room, k.typ)
			if same = bytes.Equal(now, former); err != nil || !same {
				return err
			}
			return putData(tx, k, now, exists, content)
		})
		if err != nil || same {
			return err
		}
	}
}

// putData writes a piece of account data in place of a former one, if the user does not have too much then.
func putData(tx *store.Tx, k dataKey, former json.RawMessage, exists bool, content json.RawMessage) error {
	more := len(content) - len(former)
	if !exists {
		more += len(k.room) + len(k.typ)
	}
	if more > 0 {
		kept, err := tx.Stored.Bytes(k.user, store.StoredAccountData)
		if err != nil {
			return err
		}
		if kept+int64(more) > maxDataSize {
			return fmt.Errorf("account data: %w: a user has at most %d bytes of it in all", ErrTooLarge, maxDataSize)
		}
	}
	if !exists {
		if n, err := tx.AccountData.Count(k.user); err != nil {
			return err
		} else if n >= maxDataPieces {
			return fmt.Errorf("account data: %w: a user has at most %d types of it in all rooms", ErrTooMany, maxDataPieces)
		}
	}
	tx.AccountData.Set(k.user, k.room, k.typ, content)
	return nil
}

// checkJSON refuses what some client or database could not read again, such as half of a character.
func checkJSON(content json.RawMessage) error {
	if _, err := canonicaljson.CanonicalizeLenient(content); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidParam, err)
	}
	// A number such as 1e400 would break the syncs of clients that cannot hold it.
	var readable any
	if err := json.Unmarshal(content, &readable); err != nil {
		return fmt.Errorf("%w: a number is out of range", ErrInvalidParam)
	}
	return nil
}

// tags is the content of the account data that holds the tags of a room.
type tags struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

func readTags(content json.RawMessage) tags {
	var t tags
	// A client may have written anything under this type: what cannot be read is no tags.
	if content == nil || json.Unmarshal(content, &t) != nil || t.Tags == nil {
		t.Tags = map[string]json.RawMessage{}
	}
	return t
}

// Tags reads the tags that a user has given a room.
func (s *Service) Tags(ctx context.Context, user id.UserID, room id.RoomID) (map[string]json.RawMessage, error) {
	var content json.RawMessage
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		content, _, err = tx.AccountData.Get(user, room, typeTags)
		return err
	})
	return readTags(content).Tags, err
}

// SetTag gives a room a tag; nil as content takes it away.
func (s *Service) SetTag(ctx context.Context, user id.UserID, room id.RoomID, tag string, content json.RawMessage) error {
	if tag == "" || len(tag) > maxDataType {
		return fmt.Errorf("%w: a tag has 1 to %d bytes", ErrInvalidParam, maxDataType)
	}
	if err := checkTag(content); err != nil {
		return err
	}
	return s.editData(ctx, dataKey{user, room, typeTags}, func(former json.RawMessage) (json.RawMessage, error) {
		t := readTags(former)
		if _, there := t.Tags[tag]; content == nil && !there {
			return nil, nil
		}
		if content == nil {
			delete(t.Tags, tag)
		} else {
			t.Tags[tag] = content
		}
		if len(t.Tags) > maxTags {
			return nil, fmt.Errorf("tags: %w: a room has at most %d", ErrTooMany, maxTags)
		}
		return json.Marshal(t)
	})
}

// AddDirect makes a room a direct chat with everybody whom another room is one with, for a user ("Direct Messaging").
func (s *Service) AddDirect(ctx context.Context, user id.UserID, like, room id.RoomID) error {
	return s.editData(ctx, dataKey{user, "", typeDirect}, func(former json.RawMessage) (json.RawMessage, error) {
		var direct map[string]json.RawMessage
		if json.Unmarshal(former, &direct) != nil {
			return nil, nil // a client may have written anything under this type
		}
		changed := false
		for with, list := range direct {
			var rooms []id.RoomID
			if json.Unmarshal(list, &rooms) != nil || !slices.Contains(rooms, like) || slices.Contains(rooms, room) {
				continue
			}
			raw, err := json.Marshal(append(rooms, room))
			if err != nil {
				return nil, err
			}
			direct[with], changed = raw, true
		}
		if !changed {
			return nil, nil
		}
		return json.Marshal(direct)
	})
}

// checkTag checks what is said of a tag, which may be nothing (Client-Server API, "Room Tagging").
func checkTag(content json.RawMessage) error {
	var tag struct {
		Order *float64 `json:"order"`
	}
	if content == nil {
		return nil
	}
	if json.Unmarshal(content, &tag) != nil || tag.Order != nil && (*tag.Order < 0 || *tag.Order > 1) {
		return fmt.Errorf("%w: the order of a tag must be a number from 0 to 1", ErrInvalidParam)
	}
	return nil
}

const (
	maxFilter     = filter.MaxSize
	maxFilters    = 1000    // of one user; the oldest goes
	maxFilterSize = 4 << 20 // of all filters of one user; the oldest go
	cachedFilters = 1 << 12
)

type filterKey struct {
	user id.UserID
	id   string
}

// PutFilter keeps a filter and returns the ID under which Filter finds it.
func (s *Service) PutFilter(ctx context.Context, user id.UserID, content json.RawMessage) (string, error) {
	if len(content) > maxFilter {
		return "", fmt.Errorf("filter: %w: at most %d bytes", ErrTooLarge, maxFilter)
	}
	if _, err := filter.Parse(content); err != nil {
		return "", err
	}
	if err := checkJSON(content); err != nil {
		return "", err
	}
	hash := hashToken(string(content))
	var n int64
	err := s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		n, err = tx.Filters.Put(user, hash, content, time.Now(), maxFilters, maxFilterSize)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("keep a filter: %w", err)
	}
	return strconv.FormatInt(n, 10), nil
}

// FilterJSON reads a filter as it was given.
func (s *Service) FilterJSON(ctx context.Context, user id.UserID, filterID string) (json.RawMessage, error) {
	n, err := strconv.ParseInt(filterID, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", ErrNotFound)
	}
	var content json.RawMessage
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		var ok bool
		if content, ok, err = tx.Filters.Get(user, n); err == nil && !ok {
			return fmt.Errorf("filter: %w", ErrNotFound)
		}
		return err
	})
	return content, err
}

// Filter reads what a client gives as a filter: nothing, a filter as JSON, or the ID of one that it has kept.
func (s *Service) Filter(ctx context.Context, user id.UserID, given string) (*filter.Filter, error) {
	if given == "" {
		return &filter.Filter{}, nil
	}
	if given[0] == '{' {
		if len(given) > maxFilter {
			return nil, fmt.Errorf("filter: %w: at most %d bytes", ErrTooLarge, maxFilter)
		}
		return filter.Parse([]byte(given))
	}
	key := filterKey{user, given}
	if f, ok := s.filters.GetIfPresent(key); ok {
		return f, nil
	}
	content, err := s.FilterJSON(ctx, user, given)
	if err != nil {
		return nil, err
	}
	f, err := filter.Parse(content)
	if err != nil {
		return nil, err
	}
	s.filters.Set(key, f)
	return f, nil
}
