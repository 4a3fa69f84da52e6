package timeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

var (
	// ErrForbidden is returned if the reader may not look into the room.
	ErrForbidden = errors.New("you are not in this room")
	// ErrNotFound is returned for an event or a piece of state that is not there or not for the reader.
	ErrNotFound = errors.New("not found")
	// ErrBadRequest is returned for requests that make no sense.
	ErrBadRequest = errors.New("the request makes no sense")
	// ErrTooLarge says that an answer would hold too much.
	ErrTooLarge = errors.New("the state of the room is too large to be part of this answer; /state and /members give it")
)

const (
	// DefaultLimit is how many events are returned if the client does not say.
	DefaultLimit = 10
	// MaxLimit is how many events are returned at most.
	MaxLimit = 1000
)

// Positions before and behind all events.
const (
	first stream.Position = math.MinInt64
	last  stream.Position = math.MaxInt64 - 1
)

// Service answers clients' questions about rooms' pasts and states. Fill the fields before use.
type Service struct {
	Store *store.DB
	Log   *slog.Logger
	// Backfill fetches older history of a room from other servers and says how many events came: none without an error if
	// there are no more. It is nil if this server does not federate.
	Backfill func(ctx context.Context, room id.RoomID, limit int) (int, error)
	// AskTime asks another server for the event nearest to a time in milliseconds since 1970: at or after it if dir is
	// "f", at or before it if dir is "b". It is nil if this server does not federate, else Peers is needed.
	AskTime func(ctx context.Context, server id.ServerName, room id.RoomID, ts int64, dir string) (id.EventID, int64, error)
	// Peers lists the other servers in a room in the order in which they are to be asked.
	Peers func(ctx context.Context, room id.RoomID) ([]id.ServerName, error)
}

// Reader is who reads. The device is only needed for what a device is told of its own requests.
type Reader struct {
	User   id.UserID
	Device id.DeviceID
}

// view runs f with the reader's view of a room that the reader may look into.
func (s *Service) view(ctx context.Context, roomID id.RoomID, r Reader, f func(*View) error) error {
	return s.Store.View(ctx, func(tx *store.Tx) error {
		v, err := find(tx, roomID, r)
		if err != nil {
			return err
		}
		if v == nil || !v.inside {
			return fmt.Errorf("%w: %s", ErrForbidden, roomID)
		}
		return f(v)
	})
}

func find(tx *store.Tx, roomID id.RoomID, r Reader) (*View, error) {
	room, err := tx.Rooms.ByID(roomID)
	if err != nil || room == nil {
		return nil, err
	}
	return Look(tx, room, r)
}

// position reads a token; def if there is none. One of a life of the database that was lost stands for where that life
// parted from this one; if that is not known it says nothing: rather is something shown twice than left out.
func position(tx *store.Tx, text string, def stream.Position) (stream.Position, error) {
	if text == "" {
		return def, nil
	}
	t, life, err := tx.ReadToken(text)
	if life == stream.Unknown {
		return def, err
	}
	return t.Position, err
}

// list is how a list of events is encoded: never null.
func list(events []json.RawMessage) []json.RawMessage {
	if events == nil {
		return []json.RawMessage{}
	}
	return events
}
