package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// ErrInvalid is wrapped by every refusal of a filter.
var ErrInvalid = errors.New("invalid filter")

const (
	// MaxSize bounds a filter in bytes.
	MaxSize = 64 << 10
	// maxGlobs bounds the patterns with wildcards in one list: each is tried on each event. Plain names are looked up.
	maxGlobs = 50
	// maxFields bounds event_fields: each is looked for in each event.
	maxFields = 100
)

// Filter is a filter of /sync. The zero value lets everything through.
type Filter struct {
	EventFields []string `json:"event_fields"`
	EventFormat string   `json:"event_format"` // "client" (or empty) or "federation"
	Presence    Events   `json:"presence"`
	AccountData Events   `json:"account_data"`
	Room        Room     `json:"room"`
}

// Room is the part of a filter that is about rooms.
type Room struct {
	Rooms        []id.RoomID `json:"rooms"`
	NotRooms     []id.RoomID `json:"not_rooms"`
	rooms        *rooms
	IncludeLeave bool       `json:"include_leave"`
	Ephemeral    RoomEvents `json:"ephemeral"`
	State        RoomEvents `json:"state"`
	Timeline     RoomEvents `json:"timeline"`
	AccountData  RoomEvents `json:"account_data"`
}

// Events is a filter of events outside of rooms. A list that is nil restricts nothing, an empty list of
// what is wanted lets nothing through.
type Events struct {
	Limit      *int        `json:"limit"`
	Types      []string    `json:"types"`
	NotTypes   []string    `json:"not_types"`
	Senders    []id.UserID `json:"senders"`
	NotSenders []id.UserID `json:"not_senders"`

	rules *rules // of a filter that was parsed
}

// RoomEvents is a filter of events in rooms.
type RoomEvents struct {
	Events
	Rooms                     []id.RoomID `json:"rooms"`
	NotRooms                  []id.RoomID `json:"not_rooms"`
	LazyLoadMembers           bool        `json:"lazy_load_members"`
	IncludeRedundantMembers   bool        `json:"include_redundant_members"`
	UnreadThreadNotifications bool        `json:"unread_thread_notifications"`
	ContainsURL               *bool       `json:"contains_url"`

	rooms *rooms
}

// Parse reads a filter of /sync.
func Parse(raw []byte) (*Filter, error) {
	f := &Filter{}
	if err := unmarshal(raw, f); err != nil {
		return nil, err
	}
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return nil, fmt.Errorf("%w: event_format is neither client nor federation", ErrInvalid)
	}
	if len(f.EventFields) > maxFields {
		return nil, fmt.Errorf("%w: more than %d event_fields", ErrInvalid, maxFields)
	}
	f.Room.rooms = newRooms(f.Room.Rooms, f.Room.NotRooms)
	if err := errors.Join(f.Presence.check(), f.AccountData.check(), checkRooms(f.Room.Rooms, f.Room.NotRooms),
		f.Room.Ephemeral.check(), f.Room.State.check(), f.Room.Timeline.check(), f.Room.AccountData.check()); err != nil {
		return nil, err
	}
	return f, nil
}

// ParseRoomEvents reads a filter as /messages, /context and /search take it. An empty text lets everything through.
func ParseRoomEvents(raw []byte) (*RoomEvents, error) {
	f := &RoomEvents{}
	if len(raw) == 0 {
		return f, nil
	}
	if err := unmarshal(raw, f); err != nil {
		return nil, err
	}
	return f, f.check()
}

func unmarshal(raw []byte, into any) error {
	if len(raw) > MaxSize {
		return fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxSize)
	}
	err := json.Unmarshal(raw, into)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("%w: not an object", ErrInvalid)
	case errors.As(err, &wrong):
		// The members that RoomEvents has from Events are no object of their own in a filter.
		field := strings.ReplaceAll("."+wrong.Field, ".Events.", ".")[1:]
		return fmt.Errorf("%w: wrong type of %q", ErrInvalid, field)
	case err != nil:
		return fmt.Errorf("%w: not JSON", ErrInvalid)
	}
	return nil
}

func (f *Events) check() error {
	if f.Limit != nil && *f.Limit < 0 {
		return fmt.Errorf("%w: a limit is negative", ErrInvalid)
	}
	for _, user := range slices.Concat(f.Senders, f.NotSenders) {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return fmt.Errorf("%w: senders: %w", ErrInvalid, err)
		}
	}
	f.rules = newRules(f)
	if len(f.rules.types.globs) > maxGlobs || len(f.rules.notTypes.globs) > maxGlobs {
		return fmt.Errorf("%w: more than %d types with wildcards in a list", ErrInvalid, maxGlobs)
	}
	return nil
}

func (f *RoomEvents) check() error {
	f.rooms = newRooms(f.Rooms, f.NotRooms)
	return errors.Join(f.Events.check(), checkRooms(f.Rooms, f.NotRooms))
}

func checkRooms(lists ...[]id.RoomID) error {
	for _, room := range slices.Concat(lists...) {
		if _, err := id.ParseRoomID(string(room)); err != nil {
			return fmt.Errorf("%w: rooms: %w", ErrInvalid, err)
		}
	}
	return nil
}

// Count is how many events are wanted: the filter's limit if there is one, but never more than most.
func (f *Events) Count(usual, most int) int {
	if f.Limit == nil {
		return usual
	}
	return min(*f.Limit, most)
}

// Allows says whether an event of a type by a sender passes.
func (f *Events) Allows(typ string, sender id.UserID) bool {
	r := f.rules
	if r == nil {
		r = newRules(f)
	}
	return (f.Types == nil || r.types.has(typ)) && !r.notTypes.has(typ) &&
		(f.Senders == nil || r.senders[sender]) && !r.notSenders[sender]
}

// AllowsRoom says whether anything of a room passes.
func (f *RoomEvents) AllowsRoom(room id.RoomID) bool {
	r := f.rooms
	if r == nil {
		r = newRooms(f.Rooms, f.NotRooms)
	}
	return r.allow(room)
}

// Allows says whether anything of a room passes.
func (f *Room) Allows(room id.RoomID) bool {
	r := f.rooms
	if r == nil {
		r = newRooms(f.Rooms, f.NotRooms)
	}
	return r.allow(room)
}

// AllowsContent says whether the content of an event passes: whether it has a "url" or not may matter.
func (f *RoomEvents) AllowsContent(content json.RawMessage) bool {
	if f.ContainsURL == nil {
		return true
	}
	// The content is canonical JSON: the name stands in it as it is.
	if !bytes.Contains(content, []byte(`"url":`)) {
		return !*f.ContainsURL
	}
	var c struct {
		URL json.RawMessage `json:"url"`
	}
	has := json.Unmarshal(content, &c) == nil && len(c.URL) > 0 && c.URL[0] == '"'
	return has == *f.ContainsURL
}

// Unrestricted says whether all events of all rooms pass, whatever their number.
func (f *RoomEvents) Unrestricted() bool {
	return f.Types == nil && len(f.NotTypes) == 0 && f.Senders == nil && len(f.NotSenders) == 0 &&
		f.Rooms == nil && len(f.NotRooms) == 0 && f.ContainsURL == nil
}
