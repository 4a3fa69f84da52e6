package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
)

// EDUs take in what other servers say of their users, one by one; those that are nil are not called. That the
// user is the origin's, and that the room's access list does not bar it, was checked. An error in errors.go's
// table costs the one unit; any other makes the whole transaction come again.
type EDUs struct {
	Typing   func(ctx context.Context, room id.RoomID, user id.UserID, typing bool) error
	Receipt  func(ctx context.Context, r Receipt) error
	Presence func(ctx context.Context, p Presence) error
}

// Receipt says up to which events a user has read.
type Receipt struct {
	Room   id.RoomID
	Type   string // "m.read"
	User   id.UserID
	Events []id.EventID
	Thread string // empty: of no thread
	TS     int64  // milliseconds since 1970
}

// Presence is how present a user is.
type Presence struct {
	User          id.UserID `json:"user_id"`
	State         string    `json:"presence"` // "online", "unavailable" or "offline"
	Status        string    `json:"status_msg"`
	LastActiveAgo int64     `json:"last_active_ago"` // milliseconds
	Active        bool      `json:"currently_active"`
}

const (
	// maxPresences bounds the users in one m.presence.
	maxPresences = 1000
	// maxReceipts bounds the receipts in one m.receipt.
	maxReceipts = 1000
	// maxStatus bounds a status message, in bytes.
	maxStatus = 4096
)

// receiveEDUs takes in ephemeral data units one after another. One at fault is passed over.
func (a *API) receiveEDUs(ctx context.Context, origin id.ServerName, edus []json.RawMessage) error {
	for _, raw := range edus {
		var edu struct {
			Type    string          `json:"edu_type"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &edu) != nil || len(edu.Content) == 0 {
			continue
		}
		err := a.receiveEDU(ctx, origin, edu.Type, edu.Content)
		if err == nil {
			continue
		}
		if asFailure(err) == nil || ctx.Err() != nil {
			return fmt.Errorf("receive %.64q of %s: %w", edu.Type, origin, err)
		}
		a.Log.Debug("an ephemeral data unit was refused", "type", edu.Type, "origin", origin, "err", err)
	}
	return nil
}

func (a *API) receiveEDU(ctx context.Context, origin id.ServerName, kind string, content json.RawMessage) error {
	switch kind {
	case "m.direct_to_device":
		return a.Keys.ReceiveToDevice(ctx, origin, content)
	case "m.device_list_update":
		return a.Keys.ReceiveDeviceListUpdate(ctx, origin, content)
	case "m.signing_key_update":
		return a.Keys.ReceiveSigningKeyUpdate(ctx, origin, content)
	case "m.typing":
		return a.typing(ctx, origin, content)
	case "m.receipt":
		return a.receipts(ctx, origin, content)
	case "m.presence":
		return a.presence(ctx, origin, content)
	}
	return nil
}

func decodeEDU(content json.RawMessage, into any) error {
	if err := json.Unmarshal(content, into); err != nil {
		return fail(http.StatusBadRequest, "M_BAD_JSON", "the content of an EDU is not as it should be")
	}
	return nil
}

func (a *API) typing(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var body struct {
		Room   id.RoomID `json:"room_id"`
		User   id.UserID `json:"user_id"`
		Typing bool      `json:"typing"`
	}
	if err := decodeEDU(content, &body); err != nil || a.EDUs.Typing == nil {
		return err
	}
	if _, err := id.ParseUserID(string(body.User)); err != nil {
		return err
	}
	if body.User.Server() != origin {
		return fail(http.StatusForbidden, "M_FORBIDDEN", "typing of another server's user")
	}
	if err := a.allowed(ctx, body.Room, origin); err != nil {
		return err
	}
	return a.EDUs.Typing(ctx, body.Room, body.User, body.Typing)
}

func (a *API) receipts(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var body map[id.RoomID]map[string]map[id.UserID]struct {
		Data struct {
			TS     int64  `json:"ts"`
			Thread string `json:"thread_id"`
		} `json:"data"`
		Events []id.EventID `json:"event_ids"`
	}
	if err := decodeEDU(content, &body); err != nil || a.EDUs.Receipt == nil {
		return err
	}
	left := maxReceipts
	for roomID, types := range body {
		if a.allowed(ctx, roomID, origin) != nil {
			continue
		}
		for kind, users := range types {
			for user, r := range users {
				if left--; left < 0 {
					return fail(http.StatusBadRequest, "M_TOO_LARGE", "too many receipts at once")
				}
				if _, err := id.ParseUserID(string(user)); err != nil || user.Server() != origin || len(r.Data.Thread) > id.MaxLength || len(r.Events) == 0 {
					continue
				}
				receipt := Receipt{Room: roomID, Type: kind, User: user, Events: r.Events, Thread: r.Data.Thread, TS: r.Data.TS}
				if err := a.EDUs.Receipt(ctx, receipt); err != nil && asFailure(err) == nil {
					return err
				}
			}
		}
	}
	return nil
}

func (a *API) presence(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var body struct {
		Push []Presence `json:"push"`
	}
	if err := decodeEDU(content, &body); err != nil || a.EDUs.Presence == nil {
		return err
	}
	for _, p := range body.Push[:min(len(body.Push), maxPresences)] {
		if _, err := id.ParseUserID(string(p.User)); err != nil || p.User.Server() != origin || len(p.Status) > maxStatus {
			continue
		}
		if err := a.EDUs.Presence(ctx, p); err != nil && asFailure(err) == nil {
			return err
		}
	}
	return nil
}
