package event

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// maxForeignSize bounds what Parse looks at, since "unsigned" and white space don't count against MaxSize.
const maxForeignSize = 1 << 20

// Parse reads an event that came from elsewhere. It holds it against the format of the room version and all
// limits, brings it into canonical form, drops "unsigned" and what else is not part of an event, and computes
// its ID. Hashes and signatures are Verify's business. Errors wrap ErrMalformed.
func Parse(v *Version, raw []byte) (*Event, error) {
	canonical, err := v.canonicalize(raw)
	if err != nil {
		return nil, err
	}
	canonical = canonicaljson.Without(canonical, v.foreignMembers()...)
	if len(canonical) > MaxSize {
		return nil, tooLarge("the event", MaxSize)
	}
	r := reader{ev: &Event{Version: v, JSON: canonical}}
	if err := r.read(); err != nil {
		return nil, err
	}
	if err := r.checkComplete(); err != nil {
		return nil, err
	}
	if v.EventIDs != EventIDInEvent {
		r.ev.ID = v.eventID(referenceHash(v, r.ev.Type, canonical))
	}
	if v.RoomIDIsCreateHash && r.ev.Type == TypeCreate {
		r.ev.RoomID = roomIDOf(r.ev.ID)
	}
	return r.ev, nil
}

// ParseTrusted reads an event from our own database, where Event.JSON was put, perhaps redacted later on.
// It relies on the form and checks no limits.
func ParseTrusted(v *Version, eventID id.EventID, raw []byte) (*Event, error) {
	r := reader{ev: &Event{Version: v, JSON: raw}, trusted: true}
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("event %s: %w", eventID, err)
	}
	r.ev.ID = eventID
	if v.RoomIDIsCreateHash && r.ev.Type == TypeCreate {
		r.ev.RoomID = roomIDOf(eventID)
	}
	return r.ev, nil
}

// foreignMembers are those that servers put beside an event for their own use, and the ID where it is a
// hash. They are in no signature.
func (v *Version) foreignMembers() []string {
	if v.EventIDs == EventIDInEvent {
		return []string{"unsigned", "age_ts", "outlier", "destinations"}
	}
	return []string{"unsigned", "age_ts", "outlier", "destinations", "event_id"}
}

// roomIDOf is the ID of the room that an m.room.create opens in version 12.
func roomIDOf(create id.EventID) id.RoomID {
	if create == "" {
		return ""
	}
	return "!" + id.RoomID(create[1:])
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

func tooLarge(what string, limit int) error {
	return fmt.Errorf("%w: %w: %s has more than %d bytes", ErrMalformed, ErrTooLarge, what, limit)
}

// reader fills an event from its canonical JSON.
type reader struct {
	ev      *Event
	trusted bool
	seen    []string
	redacts []byte
	hashes  map[id.EventID]string // of prev_events and auth_events in versions 1 and 2
}

func (r *reader) read() error {
	for key, value := range canonicaljson.Members(r.ev.JSON) {
		if err := r.member(string(key), value); err != nil {
			return err
		}
	}
	e := r.ev
	if e.Type == TypeRedaction {
		if e.Version.RedactsInContent {
			r.redacts = canonicaljson.Get(e.Content, "redacts")
		}
		e.Redacts = redactsOf(r.redacts)
	}
	if e.Type == TypeMember {
		e.membership, _ = canonicaljson.String(canonicaljson.Get(e.Content, "membership"))
	}
	return nil
}

// redactsOf is the event ID in a "redacts" member. What is none there redacts nothing, and is no reason to
// drop the event.
func redactsOf(value []byte) id.EventID {
	s, _ := canonicaljson.String(value)
	target, err := id.ParseEventID(s)
	if err != nil {
		return ""
	}
	return target
}

func (r *reader) member(key string, value []byte) (err error) {
	e := r.ev
	switch key {
	case "type":
		e.Type, err = r.text(key, value)
	case "state_key":
		var s string
		s, err = r.text(key, value)
		e.StateKey = &s
	case "sender":
		e.Sender, err = readID(r, key, value, id.ParseUserID)
	case "room_id":
		e.RoomID, err = readID(r, key, value, id.ParseRoomID)
	case "event_id":
		e.ID, err = readID(r, key, value, id.ParseEventID)
	case "content":
		e.Content, err = json.RawMessage(value), wantObject(key, value)
	case "prev_events":
		e.PrevEvents, err = r.references(key, value, MaxPrevEvents)
	case "auth_events":
		e.AuthEvents, err = r.references(key, value, MaxAuthEvents)
	case "depth":
		e.Depth, err = integer(key, value)
	case "origin_server_ts":
		e.OriginServerTS, err = integer(key, value)
	case "hashes":
		err = wantObject(key, value)
		if _, ok := canonicaljson.String(canonicaljson.Get(value, "sha256")); err == nil && !ok {
			err = malformed("hashes has no sha256")
		}
	case "signatures":
		err = wantObject(key, value)
	case "redacts":
		r.redacts = value
		return nil
	default:
		return nil
	}
	if !r.trusted {
		r.seen = append(r.seen, key)
	}
	return err
}

func (r *reader) text(key string, value []byte) (string, error) {
	s, ok := canonicaljson.String(value)
	if !ok {
		return "", malformed(key + " is no string")
	}
	if !r.trusted && len(s) > MaxFieldLength && (r.ev.Version.FieldBytes || utf8.RuneCountInString(s) > MaxFieldLength) {
		return "", tooLarge(key, MaxFieldLength)
	}
	return s, nil
}

func readID[T ~string](r *reader, key string, value []byte, parse func(string) (T, error)) (T, error) {
	s, err := r.text(key, value)
	if err != nil || r.trusted {
		return T(s), err
	}
	name, err := parse(s)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrMalformed, key, err)
	}
	return name, nil
}

// references reads prev_events and auth_events: a list of event IDs, in versions 1 and 2 of pairs of an event
// ID and hashes.
func (r *reader) references(key string, value []byte, limit int) ([]id.EventID, error) {
	if value[0] != '[' {
		return nil, malformed(key + " is no list")
	}
	var refs []id.EventID
	for element := range canonicaljson.Elements(value) {
		if len(refs) == limit && !r.trusted {
			return nil, malformed(key + " has more than " + strconv.Itoa(limit) + " entries")
		}
		var hashes []byte
		if r.ev.Version.EventIDs == EventIDInEvent {
			pair := slices.Collect(canonicaljson.Elements(element))
			if len(pair) != 2 || pair[1][0] != '{' {
				return nil, malformed(key + " is no list of pairs")
			}
			element, hashes = pair[0], pair[1]
		}
		ref, err := readID(r, key, element, id.ParseEventID)
		if err != nil {
			return nil, err
		}
		if hash, ok := canonicaljson.String(canonicaljson.Get(hashes, "sha256")); ok && !r.trusted {
			if r.hashes == nil {
				r.hashes = map[id.EventID]string{}
			}
			r.hashes[ref] = hash
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func integer(key string, value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, malformed(key + " is no integer")
	}
	return n, nil
}

func wantObject(key string, value []byte) error {
	if value[0] != '{' {
		return malformed(key + " is no object")
	}
	return nil
}

// checkComplete holds a foreign event against what the formats require beyond types and lengths.
func (r *reader) checkComplete() error {
	e := r.ev
	required := []string{"type", "sender", "content", "prev_events", "auth_events", "depth", "origin_server_ts", "hashes", "signatures"}
	if e.Version.EventIDs == EventIDInEvent {
		required = append(required, "event_id")
	}
	rootless := e.Version.RoomIDIsCreateHash && e.Type == TypeCreate
	if !rootless {
		required = append(required, "room_id")
	}
	for _, key := range required {
		if !slices.Contains(r.seen, key) {
			return malformed("it has no " + key)
		}
	}
	switch {
	case rootless && e.RoomID != "":
		return malformed("an m.room.create has no room_id in this room version")
	case rootless && !e.StateKeyIs(TypeCreate, ""):
		return malformed("an m.room.create has an empty state key in this room version")
	case e.Depth < 0:
		return malformed("depth is negative")
	}
	if e.Version.EventIDs == EventIDInEvent {
		if _, err := id.ParseServerName(string(e.ID.Server())); err != nil {
			return fmt.Errorf("%w: event_id: %w", ErrMalformed, err)
		}
	}
	return nil
}
