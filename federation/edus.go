package federation

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/id"
)

// maxEDU bounds an ephemeral data unit in bytes. The largest that mean well bring the keys of a room to some hundred devices.
const maxEDU = 512 << 10

// receiveEDUs takes in ephemeral data units one after another. One at fault is passed over; an error means
// that the transaction should come again.
func (a *API) receiveEDUs(ctx context.Context, origin id.ServerName, edus []json.RawMessage) error {
	for _, raw := range edus {
		if len(raw) > maxEDU {
			a.Log.Debug("an ephemeral data unit is too large", "origin", origin, "bytes", len(raw))
			continue
		}
		var edu struct {
			Type    string          `json:"edu_type"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &edu) != nil || len(edu.Content) == 0 {
			continue
		}
		err := a.receiveEDU(ctx, origin, edu.Type, edu.Content)
		switch {
		case err == nil:
		case transient(err) || ctx.Err() != nil:
			return fmt.Errorf("receive %.64q of %s: %w", edu.Type, origin, errors.Join(err, ctx.Err()))
		case asFailure(err) == nil && a.mayCureItself(origin, raw, err):
			return fmt.Errorf("receive %.64q of %s: %w", edu.Type, origin, err)
		case asFailure(err) == nil:
			a.Log.Error("an ephemeral data unit could not be received", "type", edu.Type, "origin", origin, "err", err)
		default:
			a.Log.Debug("an ephemeral data unit was refused", "type", edu.Type, "origin", origin, "err", err)
		}
	}
	return nil
}

// maxFaults is how often a unit is asked for again that could not be received for a reason of our own.
const maxFaults = 5

// mayCureItself says whether a unit is to come again although it is not known that this helps: a fault of ours is not the
// other server's to pay for, but one unit must not stop all that is behind it either.
func (a *API) mayCureItself(origin id.ServerName, unit []byte, fault error) bool {
	var bug *panicked
	if errors.As(fault, &bug) {
		return false
	}
	seen, _ := a.faults.Compute(string(origin)+" "+string(hashOf(unit)), func(n int, _ bool) (int, otter.ComputeOp) { return n + 1, otter.WriteOp })
	return seen <= maxFaults
}

func hashOf(unit []byte) []byte {
	hash := sha256.Sum256(unit)
	return hash[:]
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

// receipts takes out the rooms that bar the origin.
func (a *API) receipts(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var rooms map[id.RoomID]json.RawMessage
	if json.Unmarshal(content, &rooms) != nil {
		return errBadEDU
	}
	barred := false
	for roomID := range rooms {
		err := a.allowed(ctx, roomID, origin)
		if err != nil && asFailure(err) == nil {
			return err
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
