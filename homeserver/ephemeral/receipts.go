package ephemeral

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Types of receipts.
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	FullyRead   = "m.fully_read" // kept as account data
)

const (
	// maxThreads is how many receipts a user may have in one room.
	maxThreads = 1000
	// maxReceipts bounds the receipts in one data unit.
	maxReceipts = 1000
	maxThreadID = 255
	// MainThread is the thread of what is in no other one.
	MainThread = "main"
	// Each receipt goes in a data unit of its own: a unit cannot say two things of one user.
	receiptEDU = "m.receipt"
)

// Mark is a receipt or marker that a user sets. Thread is empty for all threads, "main", or the ID of the event at the
// root of a thread.
type Mark struct {
	Type   string
	Event  id.EventID
	Thread string
}

func (m *Mark) check() error {
	switch {
	case m.Type != Read && m.Type != ReadPrivate && m.Type != FullyRead:
		return fmt.Errorf("%w: no receipt of type %.50q", ErrInvalid, m.Type)
	case m.Type == FullyRead && m.Thread != "":
		return fmt.Errorf("%w: m.fully_read knows no threads", ErrInvalid)
	case len(m.Thread) > maxThreadID:
		return fmt.Errorf("%w: the thread ID is too long", ErrInvalid)
	case strings.IndexByte(m.Thread, 0) >= 0:
		return fmt.Errorf("%w: the thread ID has a NUL character", ErrInvalid)
	}
	if m.Thread != "" && m.Thread != MainThread {
		if _, err := id.ParseEventID(m.Thread); err != nil {
			return fmt.Errorf("%w: a thread is %q or the event at its root", ErrInvalid, MainThread)
		}
	}
	_, err := id.ParseEventID(string(m.Event))
	return err
}

// SetMarks sets receipts and the fully-read marker of a local user, all in one transaction. What would move backwards is
// left as it is. Errors: ErrInvalid, room.ErrForbidden, room.ErrEventNotFound for an event that is not in the room.
func (s *Service) SetMarks(ctx context.Context, roomID id.RoomID, user id.UserID, marks ...Mark) error {
	for i := range marks {
		if err := marks[i].check(); err != nil {
			return err
		}
	}
	if err := s.joined(ctx, roomID, user); err != nil {
		return err
	}
	s.Active(user)
	wake, err := s.Rooms.LocalMembers(ctx, roomID)
	if err != nil {
		return err
	}
	servers, err := s.others(ctx, roomID)
	if err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		for _, m := range marks {
			if err := inRoom(tx, roomID, m.Event); err != nil {
				return err
			}
			if m.Type == FullyRead {
				if err := setFullyRead(tx, roomID, user, m.Event); err != nil {
					return err
				}
				continue
			}
			r, err := setReceipt(tx, roomID, user, m, time.Now().UnixMilli(), wake)
			if err != nil || r == nil || m.Type != Read {
				if err != nil {
					return err
				}
				continue
			}
			raw, err := newEDU(receiptEDU, receiptContent(roomID, r))
			if err != nil {
				return err
			}
			unit := store.DataUnit{JSON: raw, Sender: user, Subject: fmt.Sprintf("%s %s %d %s", receiptEDU, user, r.Room, m.Thread)}
			if err := tx.Outbox.AddNewest(servers, unit); err != nil {
				return err
			}
		}
		return nil
	})
}

// inRoom refuses events that are not in a room's history here.
func inRoom(tx *store.Tx, roomID id.RoomID, eventID id.EventID) error {
	ev, err := tx.Events.Get(eventID)
	if err != nil {
		return err
	}
	if ev == nil || ev.RoomID != roomID || ev.Rejected {
		return fmt.Errorf("%w: %s", room.ErrEventNotFound, eventID)
	}
	return nil
}

// setReceipt writes a receipt; nil if there is a newer one.
func setReceipt(tx *store.Tx, roomID id.RoomID, user id.UserID, m Mark, ts int64, wake []id.UserID) (*store.Receipt, error) {
	here, err := tx.Rooms.ByID(roomID)
	if err != nil {
		return nil, err
	}
	if here == nil {
		return nil, fmt.Errorf("%w: %s", room.ErrNotFound, roomID)
	}
	ev, err := tx.Events.Get(m.Event)
	if err != nil {
		return nil, err
	}
	r := store.Receipt{Room: here.NID, User: user, Type: m.Type, Thread: m.Thread, Event: m.Event, TS: ts}
	if ev != nil && ev.Room == here.NID {
		r.EventAt = ev.Position
		if in, err := inThread(tx, ev, m.Thread); err != nil || !in {
			return nil, cmp.Or(err, errOtherThread)
		}
	}
	former, exists, err := tx.Receipts.Get(here.NID, user, m.Type, m.Thread)
	if err != nil {
		return nil, err
	}
	if exists && (former.Event == m.Event || r.EventAt != 0 && former.EventAt > r.EventAt) {
		return nil, nil
	}
	if !exists {
		if n, err := tx.Receipts.CountThreads(here.NID, user); err != nil || n >= maxThreads {
			return nil, err
		}
	}
	if m.Type == ReadPrivate {
		wake = []id.UserID{user}
	}
	tx.Receipts.Set(r, roomID, wake)
	return &r, nil
}

func setFullyRead(tx *store.Tx, roomID id.RoomID, user id.UserID, eventID id.EventID) error {
	raw, exists, err := tx.AccountData.Get(user, roomID, FullyRead)
	if err != nil {
		return err
	}
	var former struct {
		Event id.EventID `json:"event_id"`
	}
	if exists && json.Unmarshal(raw, &former) == nil {
		both, err := tx.Events.ByID(former.Event, eventID)
		if err != nil {
			return err
		}
		if former.Event == eventID || len(both) == 2 && both[0].Room == both[1].Room && both[0].Position > both[1].Position {
			return nil
		}
	}
	content, err := json.Marshal(map[string]id.EventID{"event_id": eventID})
	if err != nil {
		return fmt.Errorf("encode %s: %w", FullyRead, err)
	}
	tx.AccountData.Set(user, roomID, FullyRead, content)
	return nil
}

// receiptData is what a data unit says of one receipt.
type receiptData struct {
	Data struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	} `json:"data"`
	Events []id.EventID `json:"event_ids"`
}

type receiptUnit map[id.RoomID]map[string]map[id.UserID]receiptData

func receiptContent(roomID id.RoomID, r *store.Receipt) receiptUnit {
	d := receiptData{Events: []id.EventID{r.Event}}
	d.Data.TS, d.Data.Thread = r.TS, r.Thread
	return receiptUnit{roomID: {Read: {r.User: d}}}
}

// ReceiveReceipts takes in an m.receipt of another server (Server-Server API, "Receipts"), in one transaction of the
// database. What is wrong in it is left out.
func (s *Service) ReceiveReceipts(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var in receiptUnit
	if err := json.Unmarshal(content, &in); err != nil {
		return fmt.Errorf("%w: m.receipt: %w", ErrInvalid, err)
	}
	n := 0
	for _, receipts := range in {
		if n += len(receipts[Read]); n > maxReceipts {
			return fmt.Errorf("%w: m.receipt: more than %d receipts", ErrInvalid, maxReceipts)
		}
	}
	var list []foreignReceipt
	var refused, faults []error
	for _, roomID := range slices.Sorted(maps.Keys(in)) {
		for _, user := range slices.Sorted(maps.Keys(in[roomID][Read])) {
			r, err := s.foreignReceipt(ctx, origin, roomID, user, in[roomID][Read][user])
			switch {
			case err == nil:
				list = append(list, r)
			case isRefusal(err):
				refused = append(refused, err)
			default:
				faults = append(faults, err)
			}
		}
	}
	if len(list) > 0 {
		faults = append(faults, s.Store.Update(ctx, func(tx *store.Tx) error {
			for _, r := range list {
				if _, err := setReceipt(tx, r.room, r.user, r.mark, r.ts, r.wake); err != nil && !errors.Is(err, errOtherThread) {
					return err
				}
			}
			return nil
		}))
	}
	// What is refused must not hide that something else is to come again.
	return cmp.Or(errors.Join(faults...), errors.Join(refused...))
}

// isRefusal says whether an error is a verdict on what was received.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{ErrInvalid, id.ErrInvalid, room.ErrForbidden, room.ErrNotFound}, func(r error) bool { return errors.Is(err, r) })
}

// foreignReceipt is a receipt of another server's user, checked.
type foreignReceipt struct {
	room id.RoomID
	user id.UserID
	mark Mark
	ts   int64
	wake []id.UserID
}

func (s *Service) foreignReceipt(ctx context.Context, origin id.ServerName, roomID id.RoomID, user id.UserID, d receiptData) (r foreignReceipt, err error) {
	if user.Server() != origin || len(d.Events) == 0 {
		return r, fmt.Errorf("%w: m.receipt of a user of another server, or of no event", ErrInvalid)
	}
	r = foreignReceipt{room: roomID, user: user, mark: Mark{Type: Read, Event: d.Events[len(d.Events)-1], Thread: d.Data.Thread}, ts: d.Data.TS}
	if err := r.mark.check(); err != nil {
		return r, err
	}
	if err := s.joined(ctx, roomID, user); err != nil {
		return r, err
	}
	r.wake, err = s.Rooms.LocalMembers(ctx, roomID)
	if err == nil && len(r.wake) == 0 {
		err = fmt.Errorf("%w: this server is no longer in %s", room.ErrNotFound, roomID)
	}
	return r, err
}
