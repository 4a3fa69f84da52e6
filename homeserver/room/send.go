package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Message is an event that a local user wants to send.
type Message struct {
	Room     id.RoomID
	Sender   id.UserID
	Type     string
	StateKey *string // nil if it is no state event
	Content  json.RawMessage
	Redacts  id.EventID
	// Request is the client's transaction; a repeated one gets the first answer. It may be nil.
	Request *store.RequestKey
	// Timestamp is the time of sending in milliseconds since 1970; 0 for now.
	Timestamp int64
}

// Send builds, authorizes and appends an event, and returns once it is durable. State that is set to what it
// already is makes no new event. Errors: ErrNotFound, ErrForbidden, ErrBadRequest, event.ErrMalformed, event.ErrTooLarge.
func (e *Engine) Send(ctx context.Context, m Message) (id.EventID, error) {
	if m.Type == event.TypeCreate && m.StateKey != nil && *m.StateKey == "" {
		return "", fmt.Errorf("%w: a room has one m.room.create, its first event", ErrBadRequest)
	}
	if m.StateKey != nil {
		// Interned before the room is locked, since it may take a write.
		if _, err := e.Store.StateKey(ctx, event.StateKeyTuple{Type: m.Type, StateKey: *m.StateKey}); err != nil {
			return "", err
		}
	}
	var eventID id.EventID
	err := e.change(ctx, m.Room, func(d *draft) error {
		if m.StateKey != nil {
			if err := d.checkChange(ctx, m); err != nil {
				return err
			}
			same, err := d.unchanged(ctx, m)
			if err != nil || same != "" {
				eventID = same
				return err
			}
		}
		v, err := d.build(ctx, event.Proto{
			Type: m.Type, StateKey: m.StateKey, Sender: m.Sender, Content: m.Content, Redacts: m.Redacts, OriginServerTS: m.Timestamp,
		})
		var refusal *eventauth.Refusal
		if errors.As(err, &refusal) && refusal.Malformed {
			return fmt.Errorf("%w: %w", ErrBadRequest, refusal)
		}
		if err != nil {
			return err
		}
		eventID = v.Event().ID
		a, err := d.add(ctx, v)
		if err != nil {
			return err
		}
		a.request, a.ours = m.Request, true
		if a.ev.Type == event.TypeRedaction && a.ev.StateKey == nil {
			return d.sendRedaction(ctx, a)
		}
		return nil
	})
	var again *repeated
	if errors.As(err, &again) {
		return id.EventID(again.answer), nil
	}
	if err != nil {
		return "", err
	}
	return eventID, nil
}

// unchanged is the event that already sets a piece of state as the message would; empty if there is none.
func (d *draft) unchanged(ctx context.Context, m Message) (id.EventID, error) {
	t := event.StateKeyTuple{Type: m.Type, StateKey: *m.StateKey}
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
	if err != nil {
		return "", err
	}
	now := state[t]
	if now == nil || now.Sender != m.Sender || now.RedactedBy != 0 {
		return "", nil
	}
	canonical, err := canonicaljson.Form(m.Content, d.room.Version.StrictJSON)
	if err != nil || !bytes.Equal(now.Content, canonical) {
		return "", nil
	}
	return now.ID, nil
}

// Redact removes the content of an event. The reason may be empty.
func (e *Engine) Redact(ctx context.Context, room id.RoomID, sender id.UserID, target id.EventID, content json.RawMessage, request *store.RequestKey) (id.EventID, error) {
	return e.Send(ctx, Message{Room: room, Sender: sender, Type: event.TypeRedaction, Content: content, Redacts: target, Request: request})
}
