package timeline

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Snapshot is a room as GET /rooms/{roomId}/initialSync shows it.
type Snapshot struct {
	RoomID      id.RoomID         `json:"room_id"`
	Membership  string            `json:"membership,omitempty"`
	Messages    *Messages         `json:"messages"`
	State       []json.RawMessage `json:"state"`
	Visibility  string            `json:"visibility"`
	AccountData []Datum           `json:"account_data"`
	Presence    []json.RawMessage `json:"presence"`
	Receipts    []json.RawMessage `json:"receipts"`
}

// Datum is one of the reader's own data in a room.
type Datum struct {
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
}

// Snapshot reads a room's state and newest messages, oldest first (deprecated GET /rooms/{roomId}/initialSync). Error:
// ErrForbidden.
func (s *Service) Snapshot(ctx context.Context, roomID id.RoomID, r Reader, limit int) (*Snapshot, error) {
	out := &Snapshot{
		RoomID: roomID, Messages: &Messages{}, Visibility: "private", AccountData: []Datum{}, Presence: list(nil), Receipts: list(nil),
	}
	err := s.view(ctx, roomID, r, func(v *View) error {
		out.Membership = v.membership.Membership
		at, end, err := v.open(Page{Backwards: true, Limit: limit})
		if err != nil {
			return err
		}
		if err := v.read(at); err != nil {
			return err
		}
		if err := v.encodePage(out.Messages, at.events, nil); err != nil {
			return err
		}
		slices.Reverse(out.Messages.Chunk)
		// Here the start is the older end, whatever the direction of reading.
		out.Messages.Start, out.Messages.End = v.tx.Token(at.cursor), end
		state, err := v.stateEvents(v.state, everything)
		if err != nil {
			return err
		}
		forms, err := v.formState(state)
		if err != nil {
			return err
		}
		out.State = list(forms)
		summary, err := v.tx.Rooms.Summary(v.room.NID)
		if err != nil {
			return err
		}
		if summary.Published {
			out.Visibility = "public"
		}
		data, err := v.tx.AccountData.ByRoom(r.User, roomID)
		for _, d := range data {
			out.AccountData = append(out.AccountData, Datum{d.Type, d.Content})
		}
		return err
	})
	return out, err
}
