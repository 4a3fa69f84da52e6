package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxEDU bounds an ephemeral data unit in bytes. The largest that mean well bring the keys of a room to some hundred devices.
const maxEDU = 512 << 10

// unit is an ephemeral data unit.
type unit struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// receiveEDUs takes in ephemeral data units one after another. One at fault is passed over; those that a fault of ours
// kept out are returned, except what is old by the time that it would come again.
func (a *API) receiveEDUs(ctx context.Context, origin id.ServerName, edus []json.RawMessage) (late []store.HeldUnit) {
	for _, raw := range edus {
		if len(raw) > maxEDU {
			a.Log.Debug("an ephemeral data unit is too large", "origin", origin, "bytes", len(raw))
			continue
		}
		var edu unit
		if json.Unmarshal(raw, &edu) != nil || len(edu.Content) == 0 {
			continue
		}
		err := a.receiveEDU(ctx, origin, edu.Type, edu.Content)
		switch {
		case err == nil:
		case ours(err):
			a.Log.Warn("an ephemeral data unit could not be received", "type", edu.Type, "origin", origin, "err", err)
			if edu.Type != "m.typing" && edu.Type != "m.presence" {
				late = append(late, store.HeldUnit{Origin: origin, JSON: raw})
			}
		default:
			a.Log.Debug("an ephemeral data unit was refused", "type", edu.Type, "origin", origin, "err", err)
		}
	}
	return late
}

// receiveEDU hands a unit to the package that it concerns, which checks that it is about the origin's users.
// Unknown kinds are ignored, as the specification has it.
func (a *API) receiveEDU(ctx context.Context, origin id.ServerName, kind string, content json.RawMessage) (err error) {
	defer guard(&err)
	switch kind {
	case toDevice:
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
		return a.Ephemeral.ReceivePresence(ctx, origin, content)
	}
	return nil
}

var errBadEDU = fail(http.StatusBadRequest, "M_BAD_JSON", "the content of an EDU is not as it should be")

func (a *API) typing(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var about struct {
		Room id.RoomID `json:"room_id"`
	}
	if json.Unmarshal(content, &about) != nil {
		return errBadEDU
	}
	if err := a.allowed(ctx, about.Room, origin); err != nil {
		return err
	}
	return a.Ephemeral.ReceiveTyping(ctx, origin, content)
}

// maxReceiptRooms bounds the rooms of an EDU of receipts, each of which is looked up. Most servers name one, tuwunel up to 256.
const maxReceiptRooms = 256

// receipts takes out the rooms that bar the origin.
func (a *API) receipts(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var rooms map[id.RoomID]json.RawMessage
	if json.Unmarshal(content, &rooms) != nil {
		return errBadEDU
	}
	if len(rooms) > maxReceiptRooms {
		return errBadEDU
	}
	barred := false
	for roomID := range rooms {
		err := a.allowed(ctx, roomID, origin)
		if ours(err) {
			return err // whether it is barred is not known
		}
		if err != nil {
			barred = true
			delete(rooms, roomID)
		}
	}
	if barred {
		var err error
		if content, err = json.Marshal(rooms); err != nil {
			return fmt.Errorf("take barred rooms out of receipts: %w", err)
		}
	}
	return a.Ephemeral.ReceiveReceipts(ctx, origin, content)
}
