package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Proto is what makes up an event that is to be built.
type Proto struct {
	Type           string
	StateKey       *string // nil if it is no state event
	Sender         id.UserID
	RoomID         id.RoomID // empty for m.room.create in version 12
	Content        json.RawMessage
	PrevEvents     []id.EventID
	AuthEvents     []id.EventID
	Depth          int64
	OriginServerTS int64
	// Redacts is put where the version has it, into the event or its content.
	Redacts id.EventID
	// Hashes are the reference hashes of PrevEvents and AuthEvents. Only room versions 1 and 2 write them.
	Hashes map[id.EventID]string
}

// Build makes an event of our own: in canonical form, hashed and signed, so that there is nothing for Verify to
// find. It refuses, with ErrMalformed, what Parse would refuse. Names are taken to be valid, which their types stand for.
func Build(v *Version, p Proto, server id.ServerName, key sign.Key) (Verified, error) {
	var eventID id.EventID
	if v.EventIDs == EventIDInEvent {
		eventID = id.EventID("$" + rand.Text() + ":" + string(server))
	}
	d, err := v.draft(p, eventID)
	if err != nil {
		return Verified{}, err
	}
	hash := sha256.Sum256(d.buf)
	hashes := base64.RawStdEncoding.AppendEncode([]byte(`,"hashes":{"sha256":"`), hash[:])
	hashes = append(hashes, `"}`...)

	redacted := make([]byte, 0, len(d.buf)+len(hashes))
	redacted = append(redacted, d.buf[:d.content]...)
	redacted = appendRedactedContent(redacted, v, p.Type, d.buf[d.content:d.contentEnd])
	redacted = append(redacted, d.buf[d.contentEnd:d.hashes]...)
	redacted = append(redacted, hashes...)
	redacted = append(redacted, d.buf[d.hashes:d.redacts]...)
	redacted = append(redacted, d.buf[d.redactsEnd:]...)

	whole := make([]byte, 0, len(d.buf)+len(hashes)+len(server)+len(key.ID)+128)
	whole = append(whole, d.buf[:d.hashes]...)
	whole = append(whole, hashes...)
	whole = append(whole, d.buf[d.hashes:d.signatures]...)
	whole = append(whole, `,"signatures":{`...)
	whole = append(canonicaljson.AppendString(whole, string(server)), ':', '{')
	whole = append(canonicaljson.AppendString(whole, string(key.ID)), ':', '"')
	whole = append(whole, key.Sign(redacted)...)
	whole = append(whole, `"}}`...)
	whole = append(whole, d.buf[d.signatures:]...)
	if len(whole) > MaxSize {
		return Verified{}, tooLarge("the event", MaxSize)
	}
	if v.EventIDs != EventIDInEvent {
		eventID = v.eventID(sha256.Sum256(redacted))
	}
	return Verified{p.event(v, eventID, whole, whole[d.content:d.contentEnd:d.contentEnd])}, nil
}

// event is the event that came of a Proto.
func (p *Proto) event(v *Version, eventID id.EventID, whole, content []byte) *Event {
	e := &Event{
		Version: v, ID: eventID, RoomID: p.RoomID, Type: p.Type, StateKey: p.StateKey, Sender: p.Sender,
		Content: content, PrevEvents: slices.Clone(p.PrevEvents), AuthEvents: slices.Clone(p.AuthEvents),
		Depth: p.Depth, OriginServerTS: p.OriginServerTS, JSON: whole,
	}
	if p.StateKey != nil {
		stateKey := *p.StateKey
		e.StateKey = &stateKey
	}
	switch p.Type {
	case TypeMember:
		e.membership, _ = canonicaljson.String(canonicaljson.Get(content, "membership"))
	case TypeRedaction:
		e.Redacts = p.Redacts
		if v.RedactsInContent {
			e.Redacts = redactsOf(canonicaljson.Get(content, "redacts"))
		}
	case TypeCreate:
		if v.RoomIDIsCreateHash {
			e.RoomID = roomIDOf(eventID)
		}
	}
	return e
}

// draft is an event without hashes and signatures in canonical JSON, and the places in it that matter.
type draft struct {
	buf                 []byte
	content, contentEnd int
	hashes, signatures  int // where these go
	redacts, redactsEnd int // a member that is not signed
}

func (v *Version) draft(p Proto, eventID id.EventID) (draft, error) {
	content, err := v.checkProto(&p)
	if err != nil {
		return draft{}, err
	}
	d := draft{buf: make([]byte, 0, len(content)+512+64*(len(p.PrevEvents)+len(p.AuthEvents)))}
	b := append(d.buf, `{"auth_events":`...)
	b = v.appendReferences(b, p.AuthEvents, p.Hashes)
	b = append(b, `,"content":`...)
	d.content = len(b)
	b = append(b, content...)
	d.contentEnd = len(b)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, p.Depth, 10)
	if eventID != "" {
		b = appendText(b, `,"event_id":`, string(eventID))
	}
	d.hashes = len(b)
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, p.OriginServerTS, 10)
	b = append(b, `,"prev_events":`...)
	b = v.appendReferences(b, p.PrevEvents, p.Hashes)
	d.redacts = len(b)
	if p.Redacts != "" && !v.RedactsInContent {
		b = appendText(b, `,"redacts":`, string(p.Redacts))
	}
	d.redactsEnd = len(b)
	if p.RoomID != "" {
		b = appendText(b, `,"room_id":`, string(p.RoomID))
	}
	b = appendText(b, `,"sender":`, string(p.Sender))
	d.signatures = len(b)
	if p.StateKey != nil {
		b = appendText(b, `,"state_key":`, *p.StateKey)
	}
	b = appendText(b, `,"type":`, p.Type)
	d.buf = append(b, '}')
	return d, nil
}

// checkProto holds a Proto against the limits and is its content in canonical form.
func (v *Version) checkProto(p *Proto) ([]byte, error) {
	rootless := v.RoomIDIsCreateHash && p.Type == TypeCreate
	switch {
	case len(p.Type) > MaxFieldLength:
		return nil, tooLarge("type", MaxFieldLength)
	case p.StateKey != nil && len(*p.StateKey) > MaxFieldLength:
		return nil, tooLarge("state_key", MaxFieldLength)
	case len(p.PrevEvents) > MaxPrevEvents:
		return nil, malformed("more than " + strconv.Itoa(MaxPrevEvents) + " prev_events")
	case len(p.AuthEvents) > MaxAuthEvents:
		return nil, malformed("more than " + strconv.Itoa(MaxAuthEvents) + " auth_events")
	case p.Depth < 0 || p.Depth > v.MaxDepth:
		return nil, malformed("depth out of range")
	case v.StrictJSON && (p.OriginServerTS < -canonicaljson.MaxInteger || p.OriginServerTS > canonicaljson.MaxInteger):
		return nil, malformed("origin_server_ts out of range")
	case rootless != (p.RoomID == ""):
		return nil, malformed("room_id is for all but the m.room.create of rooms that are named by it")
	case rootless && (p.StateKey == nil || *p.StateKey != ""):
		return nil, malformed("an m.room.create has an empty state key in this room version")
	}
	content, err := v.canonicalize(p.Content)
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if p.Redacts != "" && v.RedactsInContent {
		content = canonicaljson.With(content, "redacts", canonicaljson.AppendString(nil, string(p.Redacts)))
	}
	return content, nil
}

func appendText(dst []byte, key, s string) []byte {
	return canonicaljson.AppendString(append(dst, key...), s)
}

func (v *Version) appendReferences(dst []byte, refs []id.EventID, hashes map[id.EventID]string) []byte {
	dst = append(dst, '[')
	for i, ref := range refs {
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.EventIDs != EventIDInEvent {
			dst = canonicaljson.AppendString(dst, string(ref))
			continue
		}
		dst = append(canonicaljson.AppendString(append(dst, '['), string(ref)), ',', '{')
		if hash, ok := hashes[ref]; ok {
			dst = appendText(dst, `"sha256":`, hash)
		}
		dst = append(dst, '}', ']')
	}
	return append(dst, ']')
}

// Sign adds the signature of a server to an event that another one made, as for invites and restricted
// joins. The caller has checked every field of what it signs.
func (e *Event) Sign(server id.ServerName, key sign.Key) (*Event, error) {
	message := appendRedacted(make([]byte, 0, len(e.JSON)), e.Version, e.Type, e.JSON, false)
	whole, err := sign.AddSignature(e.JSON, string(server), key.ID, key.Sign(message))
	if err != nil {
		return nil, fmt.Errorf("signing event %s: %w", e.ID, err)
	}
	if len(whole) > MaxSize {
		return nil, tooLarge("the event with our signature", MaxSize)
	}
	signed := *e
	signed.JSON, signed.Content = whole, canonicaljson.Get(whole, "content")
	return &signed, nil
}
