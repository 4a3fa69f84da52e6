package clientapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// roomRoutes are those that make rooms and send events (Client-Server API, "Creation", "Sending events to
// a room", "Redactions").
func (a *API) roomRoutes() []route {
	return []route{
		{POST, "/v3/createRoom", user, limitJoin, a.createRoom},
		{PUT, "/v3/rooms/:roomId/send/:eventType/:txnId", user, limitMessage, a.sendEvent},
		{POST, "/v3/rooms/:roomId/send/:eventType", user, limitMessage, a.sendEvent},
		{PUT, "/v3/rooms/:roomId/state/:eventType", user, limitMessage, a.putState},
		{PUT, "/v3/rooms/:roomId/state/:eventType/", user, limitMessage, a.putState},
		{PUT, "/v3/rooms/:roomId/state/:eventType/:stateKey", user, limitMessage, a.putState},
		{PUT, "/v3/rooms/:roomId/redact/:eventId/:txnId", user, limitMessage, a.redactEvent},
		{POST, "/v3/rooms/:roomId/redact/:eventId", user, limitMessage, a.redactEvent},
	}
}

// maxEventBody is how large the content of an event may be as it is sent: the event itself is bounded by event.MaxSize in
// canonical form, in which what was escaped is shorter.
const maxEventBody = 4 * event.MaxSize

type creation struct {
	Visibility      string                     `json:"visibility"`
	Alias           string                     `json:"room_alias_name"`
	Name            string                     `json:"name"`
	Topic           string                     `json:"topic"`
	Invite          []id.UserID                `json:"invite"`
	Invite3PID      []json.RawMessage          `json:"invite_3pid"`
	Version         json.RawMessage            `json:"room_version"`
	CreationContent map[string]json.RawMessage `json:"creation_content"`
	InitialState    []room.StateEvent          `json:"initial_state"`
	Preset          string                     `json:"preset"`
	IsDirect        bool                       `json:"is_direct"`
	PowerOverride   map[string]json.RawMessage `json:"power_level_content_override"`
}

func (a *API) createRoom(c *call) (any, error) {
	var body creation
	if err := a.limiter.checkMore(limitMessage, c, 1); err != nil {
		return nil, err
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	wanted, err := a.creationOf(c, &body)
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	var claim func(*store.Tx, id.RoomID) error
	if wanted.Alias != "" {
		claim = func(tx *store.Tx, roomID id.RoomID) error {
			return a.Directory.Claim(tx, wanted.Alias, roomID, c.Requester.User)
		}
	}
	roomID, err := a.Rooms.Create(ctx, wanted, claim)
	switch {
	case errors.Is(err, directory.ErrTaken):
		return nil, fail(http.StatusBadRequest, "M_ROOM_IN_USE", err.Error())
	case errors.Is(err, room.ErrForbidden), errors.Is(err, event.ErrMalformed):
		// The rules of rooms are not the reason: what was asked for contradicts itself.
		return nil, fail(http.StatusBadRequest, "M_INVALID_ROOM_STATE", err.Error())
	case err != nil:
		return nil, err
	}
	a.limiter.owe(limitMessage, c, len(wanted.InitialState)+len(wanted.Invite)) // each of them is an event
	limited, cancel := context.WithTimeout(ctx, inviteWait)
	defer cancel()
	a.Rooms.AwaitInvites(limited, roomID)
	return map[string]any{"room_id": roomID}, nil
}

// inviteWait is how long the creator of a room waits until other servers have been asked to sign its invites.
const inviteWait = 10 * time.Second

// creationOf checks what is asked of a new room.
func (a *API) creationOf(c *call, body *creation) (room.Creation, error) {
	out := room.Creation{
		Creator: c.Requester.User, Preset: body.Preset, Public: body.Visibility == "public", Name: body.Name, Topic: body.Topic,
		Invite: body.Invite, IsDirect: body.IsDirect, CreationContent: body.CreationContent, InitialState: body.InitialState,
		PowerOverride: body.PowerOverride,
	}
	if body.Visibility != "" && body.Visibility != "public" && body.Visibility != "private" {
		return out, fail(http.StatusBadRequest, "M_INVALID_PARAM", "visibility must be public or private")
	}
	for _, s := range body.InitialState {
		if s.Type == "" {
			return out, fail(http.StatusBadRequest, "M_BAD_JSON", "each event of initial_state needs a type")
		}
	}
	if len(body.Invite3PID) > 0 {
		return out, fail(http.StatusForbidden, "M_THREEPID_DENIED", "this server invites nobody by e-mail or telephone")
	}
	if len(body.Version) > 0 && json.Unmarshal(body.Version, &out.Version) != nil {
		return out, fail(http.StatusBadRequest, "M_BAD_JSON", "room_version must be a string")
	}
	if body.Alias != "" {
		alias, err := id.ParseRoomAlias("#" + body.Alias + ":" + string(a.Server))
		if err != nil || alias.Localpart() != body.Alias {
			return out, fail(http.StatusBadRequest, "M_INVALID_PARAM", "room_alias_name is only the part between # and :, without either")
		}
		out.Alias = alias
	}
	for _, s := range body.InitialState {
		if s.Type != "m.room.canonical_alias" || s.StateKey != "" || len(s.Content) == 0 {
			continue
		}
		named, err := aliasesIn(s.Content)
		if err != nil {
			return out, err
		}
		for _, alias := range named {
			if alias != out.Alias {
				return out, fail(http.StatusBadRequest, "M_BAD_ALIAS", fmt.Sprintf("%s does not lead to the new room", alias))
			}
		}
	}
	for _, u := range body.Invite {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return out, err
		}
	}
	var err error
	out.Profile, err = a.profileOf(c.Request().Context(), c.Requester.User)
	return out, err
}

// profileOf is how a user is shown in rooms.
func (a *API) profileOf(ctx context.Context, u id.UserID) (p room.Profile, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		fields, err := tx.Profiles.Get(u)
		p = room.ProfileOf(fields)
		return err
	})
	return p, err
}

// maxTxnID is how long a transaction ID may be, in bytes. They are remembered, and told with events.
const maxTxnID = 255

var errTxnID = fail(http.StatusBadRequest, "M_INVALID_PARAM", "a transaction ID has at most 255 bytes")

func (a *API) sendEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	content, err := c.body(maxEventBody) // that it is an object is checked when the event is built
	if err != nil {
		return nil, err
	}
	m, err := c.message(roomID, c.path("eventType"), c.path("txnId"), content, "")
	if err != nil {
		return nil, err
	}
	eventID, err := a.Rooms.Send(c.Request().Context(), m)
	if errors.Is(err, event.ErrMalformed) {
		err = cmp.Or(checkObject(content), err)
	}
	if err != nil {
		return nil, err
	}
	return sent(eventID), nil
}

// message is an event that the client sends, once only if it gives it the ID of a transaction. What an m.room.redaction redacts
// may stand in its content instead.
func (c *call) message(roomID id.RoomID, typ, txnID string, content json.RawMessage, redacts id.EventID) (room.Message, error) {
	m := room.Message{Room: roomID, Sender: c.Requester.User, Type: typ, Content: content}
	if len(txnID) > maxTxnID {
		return m, errTxnID
	}
	if txnID != "" {
		c.answered = make(chan struct{})
		m.Request = &store.RequestKey{
			User: c.Requester.User, Device: c.Requester.Device, Scope: "send " + string(roomID) + " " + typ, TxnID: txnID, Answered: c.answered,
		}
	}
	switch typ {
	case event.TypeRedaction:
		var body struct {
			Redacts id.EventID `json:"redacts"`
		}
		if err := unmarshal(content, &body); err != nil {
			return m, err
		}
		if m.Redacts = cmp.Or(redacts, body.Redacts); m.Redacts == "" {
			return m, missing("redacts")
		}
	case "m.room.message":
		// No client can show one without (Client-Server API, "Instant Messaging", "Server behaviour").
		var body struct {
			Type *string `json:"msgtype"`
			Text *string `json:"body"`
		}
		if json.Unmarshal(content, &body) != nil || body.Type == nil || body.Text == nil {
			refusal := fail(http.StatusBadRequest, "M_BAD_JSON", "an m.room.message has a msgtype and a body, both strings")
			return m, cmp.Or(checkObject(content), refusal)
		}
	}
	return m, nil
}

// sent is the answer to what made an event. Event IDs need no escaping.
func sent(eventID id.EventID) json.RawMessage {
	return append(append(append(make([]byte, 0, 72), `{"event_id":"`...), eventID...), `"}`...)
}

func (a *API) putState(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	content, err := c.object(maxEventBody)
	if err != nil {
		return nil, err
	}
	return a.setState(c, roomID, c.path("eventType"), c.path("stateKey"), content)
}

// setState sends a state event, by the way that its type asks for.
func (a *API) setState(c *call, roomID id.RoomID, typ, key string, content json.RawMessage) (any, error) {
	ctx := c.Request().Context()
	switch typ {
	case event.TypeMember:
		return a.putMember(c, roomID, key, content)
	case "m.room.canonical_alias":
		if err := a.checkAliases(c, roomID, content); err != nil {
			return nil, err
		}
	}
	eventID, err := a.Rooms.Send(ctx, room.Message{Room: roomID, Sender: c.Requester.User, Type: typ, StateKey: &key, Content: content})
	if err != nil {
		return nil, err
	}
	return sent(eventID), nil
}

// aliasesIn reads the aliases that an m.room.canonical_alias names.
func aliasesIn(content json.RawMessage) ([]id.RoomAlias, error) {
	var named struct {
		Alias json.RawMessage `json:"alias"`
		Alt   []id.RoomAlias  `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &named); err != nil {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "alias must be a room alias, alt_aliases a list of them")
	}
	aliases := named.Alt
	var main *id.RoomAlias
	if len(named.Alias) > 0 && json.Unmarshal(named.Alias, &main) != nil {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "alias must be a room alias")
	}
	if main != nil && *main != "" {
		aliases = append(aliases, *main)
	}
	if len(aliases) > 50 {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "a room may name at most 50 aliases")
	}
	return aliases, nil
}

// aliasPatience is how long other servers have in all to say which room aliases stand for.
const aliasPatience = 30 * time.Second

// checkAliases refuses an m.room.canonical_alias that names aliases of other rooms (Client-Server API, PUT state).
// Those of other servers, which these are asked for, count as lookups.
func (a *API) checkAliases(c *call, roomID id.RoomID, content json.RawMessage) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), aliasPatience)
	defer cancel()
	aliases, err := aliasesIn(content)
	if err != nil {
		return err
	}
	known, err := a.Directory.Named(ctx, roomID)
	if err != nil {
		return err
	}
	for _, alias := range aliases {
		if known[alias] {
			continue // it was named before
		}
		if _, err := id.ParseRoomAlias(string(alias)); err != nil {
			return fail(http.StatusBadRequest, "M_INVALID_PARAM", fmt.Sprintf("%q is no room alias", alias))
		}
		if alias.Server() != a.Server {
			if err := a.limiter.check(limitLookup, c); err != nil {
				return err
			}
		}
		target, err := a.Directory.Resolve(ctx, alias)
		if err != nil || target.Room != roomID {
			return fail(http.StatusBadRequest, "M_BAD_ALIAS", fmt.Sprintf("%s does not lead to this room", alias))
		}
	}
	return nil
}

func (a *API) redactEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	target, err := c.eventID()
	if err != nil {
		return nil, err
	}
	content := json.RawMessage(emptyObject)
	if c.Request().ContentLength != 0 {
		if content, err = c.object(maxEventBody); err != nil {
			return nil, err
		}
	}
	var request *store.RequestKey
	if len(c.path("txnId")) > maxTxnID {
		return nil, errTxnID
	}
	if txnID := c.path("txnId"); txnID != "" {
		c.answered = make(chan struct{})
		request = &store.RequestKey{
			User: c.Requester.User, Device: c.Requester.Device, Scope: "redact " + string(roomID) + " " + string(target), TxnID: txnID, Answered: c.answered,
		}
	}
	eventID, err := a.Rooms.Redact(c.Request().Context(), roomID, c.Requester.User, target, content, request)
	if err != nil {
		return nil, err
	}
	return sent(eventID), nil
}
