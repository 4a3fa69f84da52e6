package event

import (
	"encoding/json"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

// ClientJSON is the event as the client-server API shows it, with "unsigned" unless that is empty.
func (e *Event) ClientJSON(unsigned json.RawMessage) []byte { return e.appendClient(unsigned, true) }

// SyncJSON is ClientJSON without the room ID, which /sync gives once for many events.
func (e *Event) SyncJSON(unsigned json.RawMessage) []byte { return e.appendClient(unsigned, false) }

// StrippedJSON is the stripped state event that invited and knocking users see of a room.
func (e *Event) StrippedJSON() []byte {
	b := append(make([]byte, 0, len(e.Content)+256), `{"content":`...)
	b = append(b, e.Content...)
	b = appendText(b, `,"sender":`, string(e.Sender))
	if e.StateKey != nil {
		b = appendText(b, `,"state_key":`, *e.StateKey)
	}
	b = appendText(b, `,"type":`, e.Type)
	return append(b, '}')
}

// WithUnsigned is the event as it is federated, with "unsigned" beside it.
func (e *Event) WithUnsigned(unsigned json.RawMessage) []byte {
	return canonicaljson.With(e.JSON, "unsigned", unsigned)
}

func (e *Event) appendClient(unsigned json.RawMessage, withRoom bool) []byte {
	b := append(make([]byte, 0, len(e.Content)+len(unsigned)+512), `{"content":`...)
	if e.Redacts != "" && !e.Version.RedactsInContent {
		// Newer clients look for it here in all versions, older ones at the top level (room version 11,
		// "Moving the redacts property").
		b = append(b, canonicaljson.With(e.Content, "redacts", canonicaljson.AppendString(nil, string(e.Redacts)))...)
	} else {
		b = append(b, e.Content...)
	}
	b = appendText(b, `,"event_id":`, string(e.ID))
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, e.OriginServerTS, 10)
	if e.Redacts != "" {
		b = appendText(b, `,"redacts":`, string(e.Redacts))
	}
	if withRoom {
		b = appendText(b, `,"room_id":`, string(e.RoomID))
	}
	b = appendText(b, `,"sender":`, string(e.Sender))
	if e.StateKey != nil {
		b = appendText(b, `,"state_key":`, *e.StateKey)
	}
	b = appendText(b, `,"type":`, e.Type)
	if len(unsigned) > 0 {
		b = append(append(b, `,"unsigned":`...), unsigned...)
	}
	return append(b, '}')
}
