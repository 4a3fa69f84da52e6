package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Event is an event in the form that clients get.
type Event struct {
	ID        id.EventID      `json:"event_id,omitempty"`
	Room      id.RoomID       `json:"room_id,omitempty"`
	Type      string          `json:"type"`
	StateKey  *string         `json:"state_key,omitempty"`
	Sender    id.UserID       `json:"sender"`
	Timestamp int64           `json:"origin_server_ts"` // milliseconds since 1970
	Content   json.RawMessage `json:"content"`
	Unsigned  struct {
		TxnID           string          `json:"transaction_id,omitempty"`
		RedactedBecause json.RawMessage `json:"redacted_because,omitempty"`
	} `json:"unsigned,omitzero"`
	Raw json.RawMessage `json:"-"` // the event as it came
}

// Events is a list from a server. What can't be decoded is left out, so that one malformed event of a
// stranger does not hide the others.
type Events []Event

// UnmarshalJSON implements json.Unmarshaler.
func (es *Events) UnmarshalJSON(data []byte) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*es = make(Events, 0, len(raw))
	for _, one := range raw {
		var e Event
		if json.Unmarshal(one, &e) == nil && e.Type != "" {
			e.Raw = one
			*es = append(*es, e)
		}
	}
	return nil
}

// NewRoom describes a room to create.
type NewRoom struct {
	Name         string       `json:"name,omitempty"`
	Topic        string       `json:"topic,omitempty"`
	AliasName    string       `json:"room_alias_name,omitempty"`
	Preset       string       `json:"preset,omitempty"`
	Visibility   string       `json:"visibility,omitempty"`
	Version      string       `json:"room_version,omitempty"`
	Invite       []id.UserID  `json:"invite,omitempty"`
	Direct       bool         `json:"is_direct,omitempty"`
	InitialState []StateEvent `json:"initial_state,omitempty"`
}

// StateEvent is a state event to be sent.
type StateEvent struct {
	Type     string `json:"type"`
	StateKey string `json:"state_key"`
	Content  any    `json:"content"`
}

// CreateRoom creates a room.
func (c *Client) CreateRoom(ctx context.Context, room NewRoom) (id.RoomID, error) {
	var out struct {
		Room id.RoomID `json:"room_id"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/createRoom", body: room}, &out)
	return out.Room, err
}

// Join joins a room by its ID or alias, by way of the given servers if ours is not in it.
func (c *Client) Join(ctx context.Context, roomOrAlias string, via []id.ServerName) (id.RoomID, error) {
	query := url.Values{}
	for _, server := range via {
		query.Add("via", string(server))
		query.Add("server_name", string(server))
	}
	var out struct {
		Room id.RoomID `json:"room_id"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: path("/_matrix/client/v3/join/%s", roomOrAlias), query: query, body: struct{}{}}, &out)
	return out.Room, err
}

// Leave leaves a room, or rejects the invitation to it.
func (c *Client) Leave(ctx context.Context, room id.RoomID, reason string) error {
	return c.do(ctx, call{method: http.MethodPost, path: path("/_matrix/client/v3/rooms/%s/leave", string(room)), body: withReason(reason)}, nil)
}

// Invite invites a user.
func (c *Client) Invite(ctx context.Context, room id.RoomID, user id.UserID, reason string) error {
	body := withReason(reason)
	body["user_id"] = string(user)
	return c.do(ctx, call{method: http.MethodPost, path: path("/_matrix/client/v3/rooms/%s/invite", string(room)), body: body}, nil)
}

func withReason(reason string) map[string]string {
	body := map[string]string{}
	if reason != "" {
		body["reason"] = reason
	}
	return body
}

// JoinedRooms lists the rooms that the user is in.
func (c *Client) JoinedRooms(ctx context.Context) ([]id.RoomID, error) {
	var out struct {
		Rooms []id.RoomID `json:"joined_rooms"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/joined_rooms"}, &out)
	return out.Rooms, err
}

// Resolve asks which room an alias names.
func (c *Client) Resolve(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	var out struct {
		Room    id.RoomID       `json:"room_id"`
		Servers []id.ServerName `json:"servers"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/directory/room/%s", string(alias))}, &out)
	return out.Room, out.Servers, err
}

// Members lists the membership events of a room.
func (c *Client) Members(ctx context.Context, room id.RoomID) ([]Event, error) {
	var out struct {
		Chunk Events `json:"chunk"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/rooms/%s/members", string(room)), limit: maxSyncAnswer}, &out)
	return out.Chunk, err
}

// State reads the content of one state event of a room into out.
func (c *Client) State(ctx context.Context, room id.RoomID, kind, stateKey string, out any) error {
	at := path("/_matrix/client/v3/rooms/%s/state/%s", string(room), kind)
	if stateKey != "" {
		at += "/" + url.PathEscape(stateKey)
	}
	return c.do(ctx, call{method: http.MethodGet, path: at}, out)
}

// SetState sends a state event.
func (c *Client) SetState(ctx context.Context, room id.RoomID, state StateEvent) (id.EventID, error) {
	at := path("/_matrix/client/v3/rooms/%s/state/%s/", string(room), state.Type) + url.PathEscape(state.StateKey)
	return c.sent(ctx, at, state.Content)
}

// Send sends a message event. The same transaction identifier never sends twice.
func (c *Client) Send(ctx context.Context, room id.RoomID, kind, txn string, content any) (id.EventID, error) {
	return c.sent(ctx, path("/_matrix/client/v3/rooms/%s/send/%s/%s", string(room), kind, txn), content)
}

func (c *Client) sent(ctx context.Context, at string, content any) (id.EventID, error) {
	var out struct {
		Event id.EventID `json:"event_id"`
	}
	err := c.do(ctx, call{method: http.MethodPut, path: at, body: content}, &out)
	return out.Event, err
}

// Page is one page of a room's history.
type Page struct {
	Start string `json:"start"`
	End   string `json:"end"` // where the next page begins; empty at the end of the history
	Chunk Events `json:"chunk"`
}

// Messages reads a room's history backwards from a token, or from the newest event if from is empty.
func (c *Client) Messages(ctx context.Context, room id.RoomID, from string, limit int) (Page, error) {
	query := url.Values{"dir": {"b"}, "limit": {strconv.Itoa(limit)}}
	if from != "" {
		query.Set("from", from)
	}
	var page Page
	err := c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/rooms/%s/messages", string(room)), query: query, limit: maxSyncAnswer}, &page)
	return page, err
}

// Event reads one event of a room.
func (c *Client) Event(ctx context.Context, room id.RoomID, event id.EventID) (Event, error) {
	var raw json.RawMessage
	err := c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/rooms/%s/event/%s", string(room), string(event))}, &raw)
	if err != nil {
		return Event{}, err
	}
	var e Event
	if err = json.Unmarshal(raw, &e); err == nil && e.ID != event {
		err = fmt.Errorf("the server was asked for the event %s and answers another one", event)
	}
	e.Raw = raw
	return e, err
}

// MarkRead moves the user's read marker and receipt to an event.
func (c *Client) MarkRead(ctx context.Context, room id.RoomID, event id.EventID) error {
	return c.do(ctx, call{method: http.MethodPost, path: path("/_matrix/client/v3/rooms/%s/read_markers", string(room)),
		body: map[string]id.EventID{"m.fully_read": event, "m.read": event}}, nil)
}
