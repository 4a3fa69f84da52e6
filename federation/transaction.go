package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// transactionTimeout bounds the work on one transaction, which may have to fetch what is missing.
	transactionTimeout = 5 * time.Minute
	// parallelRooms bounds how many rooms of one transaction are worked on at once.
	parallelRooms = 4
	// maxUnits bounds the members of a transaction and the entries of its lists in all, before they are decoded.
	maxUnits = 1000
	// Transactions that are worked on at a time: of all servers, of one, and how many more of one may wait for that. Servers
	// send one at a time (Server-Server API, "Transactions"), but may have given one up that is still worked on.
	sendingAll     = 256
	sendingFor     = 4
	sendingWaiting = 8
)

var errTooMany = fail(http.StatusBadRequest, "M_INVALID_PARAM", fmt.Sprintf("a transaction has at most %d PDUs and %d EDUs", client.MaxPDUs, client.MaxEDUs))

func (a *API) transactionRoutes() []route {
	return []route{
		{PUT, "/v1/send/:txnId", signed, transaction, a.send},
	}
}

// delivery is a transaction as it was received.
type delivery struct {
	PDUs []json.RawMessage `json:"pdus"`
	EDUs []json.RawMessage `json:"edus"`
}

// send takes in a transaction. One that comes again while it is worked on waits for the same answer, and one
// that was answered is answered by heart. The work goes on if the other server stops waiting, so that it is not the
// connections that bound how much of it there is.
func (a *API) send(c *call) (any, error) {
	txnID := c.path("txnId")
	if txnID == "" || len(txnID) > id.MaxLength {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "a transaction ID has 1 to 255 bytes")
	}
	var d delivery
	if err := c.decode(&d); err != nil {
		return nil, err
	}
	if len(d.PDUs) > client.MaxPDUs || len(d.EDUs) > client.MaxEDUs {
		return nil, errTooMany
	}
	ctx, origin, network := c.Request().Context(), c.Origin, a.stranger(c.Request())
	shared := a.flights.DoChan(string(origin)+" "+txnID, func() (answer any, err error) {
		defer guard(&err)
		work, cancel := context.WithTimeout(a.readingFor(origin), transactionTimeout)
		defer cancel()
		leave, err := a.sending.enterFrom(ctx, string(origin), network, cancel)
		if err != nil {
			return nil, err
		}
		defer leave()
		if !c.work.Claim() {
			return nil, context.Canceled // the other server has gone already
		}
		defer c.work.End()
		if !a.begin() {
			return nil, context.Canceled // the server ends: it comes again
		}
		defer a.working.Done()
		return a.receive(work, origin, txnID, d)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-shared:
		return result.Val, result.Err
	}
}

// toDevice is the kind of data unit that must not be taken in twice.
const toDevice = "m.direct_to_device"

// byHaste parts what must be there before the events of a transaction from the rest. That is keys: a client that is shown an
// event before the key that opens it may never try again. What else there is may be about these events.
func byHaste(edus []json.RawMessage) (first, rest []json.RawMessage) {
	for _, raw := range edus {
		var edu unit
		if len(raw) <= maxEDU && json.Unmarshal(raw, &edu) == nil {
			switch edu.Type {
			case toDevice, "m.device_list_update", "m.signing_key_update":
				first = append(first, raw)
				continue
			}
		}
		rest = append(rest, raw)
	}
	return first, rest
}

// receive works on a transaction unless it was answered before, and remembers the answer where it matters: what else
// there is may be taken in twice.
func (a *API) receive(ctx context.Context, origin id.ServerName, txnID string, d delivery) (json.RawMessage, error) {
	var answer []byte
	lasting := len(d.PDUs) > 0 || slices.ContainsFunc(d.EDUs, func(raw json.RawMessage) bool { return bytes.Contains(raw, []byte(toDevice)) })
	err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
		answer, _, err = tx.Received.Answer(origin, txnID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look a transaction up: %w", err)
	}
	if answer != nil {
		return answer, nil
	}
	first, rest := byHaste(d.EDUs)
	early := a.receiveEDUs(ctx, origin, first)
	results, late, entering := a.receiveEvents(ctx, origin, d.PDUs)
	late = slices.Concat(early, late, a.receiveEDUs(ctx, origin, rest))
	if a.ctx.Err() != nil {
		return nil, fmt.Errorf("receive a transaction: %w", a.ctx.Err()) // the server ends: it comes again
	}
	if answer, err = json.Marshal(map[string]any{"pdus": results}); err != nil {
		return nil, fmt.Errorf("encode the answer to a transaction: %w", err)
	}
	if !lasting && len(late) == 0 {
		return answer, nil
	}
	// However long it took, what waits and the answer have to be written.
	ctx = context.WithoutCancel(ctx)
	if err := a.numbered(ctx, late); err != nil {
		return nil, err
	}
	var lost []loss
	err = a.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if len(late) > 0 {
			if lost, err = a.keep(tx, origin, late); err != nil {
				return err
			}
		}
		return tx.Received.Insert(origin, txnID, answer, time.Now())
	})
	if err != nil {
		return nil, fmt.Errorf("remember a transaction: %w", err)
	}
	for _, l := range lost {
		a.setAside(l.origin, l.HeldSize, errFullest)
	}
	if len(late) > 0 {
		a.wakeRetry()
	}
	for _, roomID := range entering {
		a.awaitEntry(roomID)
	}
	return answer, nil
}

// verdict is what the other server is told of an event; empty if all is well.
type verdict struct {
	Error string `json:"error,omitempty"`
}

// receiveEvents hands events to their rooms, in their order, several rooms at once. It returns what is to be said of each,
// those that a fault of ours kept out, and the rooms of these that a user of ours is about to come into.
func (a *API) receiveEvents(
	ctx context.Context, origin id.ServerName, pdus []json.RawMessage,
) (out map[id.EventID]verdict, late []store.HeldUnit, entering []id.RoomID) {
	rooms, out := byRoom(pdus)
	var mu sync.Mutex
	var group errgroup.Group // the trouble of one room does not stop the work on others
	group.SetLimit(parallelRooms)
	for roomID, raw := range rooms {
		group.Go(func() error {
			results := a.receiveInRoom(ctx, origin, roomID, raw)
			hope := a.worthWaiting(ctx, origin, roomID, results)
			mu.Lock()
			defer mu.Unlock()
			for i, r := range results {
				var v verdict
				if passes(r.Err) && (hope || !needsOthers(r.Err)) {
					level := slog.LevelWarn
					if errors.Is(r.Err, room.ErrEntering) {
						level = slog.LevelDebug
						entering = append(entering, roomID)
					}
					a.Log.Log(ctx, level, "an event waits to be received again", "room", roomID, "event", r.ID, "origin", origin, "err", r.Err)
					late = append(late, store.HeldUnit{Origin: origin, Room: roomID, Event: r.ID, JSON: raw[i]})
				} else {
					v = a.verdict(roomID, r)
				}
				if r.ID != "" {
					out[r.ID] = v
				}
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error
	return out, late, entering
}

// worthWaiting says whether events are kept until the keys can be had with which they are signed, or what comes before them:
// anybody can sign with keys that never can, and follow what nobody has, so only those of a server in the room are.
func (a *API) worthWaiting(ctx context.Context, origin id.ServerName, roomID id.RoomID, results []room.Received) bool {
	if !slices.ContainsFunc(results, func(r room.Received) bool { return needsOthers(r.Err) }) {
		return true
	}
	servers, err := a.Rooms.Servers(ctx, roomID)
	return err != nil && ours(err) || slices.Contains(servers, origin)
}

// byRoom sorts events by their rooms. Those without one are refused, if they say their own name: in newer room versions
// it takes the room to know it.
func byRoom(pdus []json.RawMessage) (map[id.RoomID][]json.RawMessage, map[id.EventID]verdict) {
	rooms, refused := map[id.RoomID][]json.RawMessage{}, map[id.EventID]verdict{}
	for _, raw := range pdus {
		var head map[string]json.RawMessage
		var room, name string
		if json.Unmarshal(raw, &head) != nil {
			continue
		}
		if json.Unmarshal(head["room_id"], &room) == nil {
			if roomID, err := id.ParseRoomID(room); err == nil {
				rooms[roomID] = append(rooms[roomID], raw)
				continue
			}
		}
		if json.Unmarshal(head["event_id"], &name) == nil {
			if eventID, err := id.ParseEventID(name); err == nil {
				refused[eventID] = verdict{"the event has no valid room_id"}
			}
		}
	}
	return rooms, refused
}

// receiveInRoom hands events to their room and says what became of each, in their order. Should that panic, each is tried
// alone, so that the others come in.
func (a *API) receiveInRoom(ctx context.Context, origin id.ServerName, roomID id.RoomID, raw []json.RawMessage) []room.Received {
	out, err := a.tryInRoom(ctx, origin, roomID, raw)
	if err == nil {
		return out
	}
	if len(raw) == 1 {
		return []room.Received{a.name(ctx, roomID, raw[0], err)}
	}
	for i := range raw {
		out = append(out, a.receiveInRoom(ctx, origin, roomID, raw[i:i+1])...)
	}
	return out
}

func (a *API) tryInRoom(ctx context.Context, origin id.ServerName, roomID id.RoomID, raw []json.RawMessage) (out []room.Received, err error) {
	defer guard(&err)
	if err := a.allowed(ctx, roomID, origin); err != nil {
		return a.Rooms.Refuse(ctx, roomID, raw, err), nil
	}
	return a.Rooms.Receive(ctx, origin, roomID, raw), nil
}

// name finds the ID of an event that made us panic, if that can be had.
func (a *API) name(ctx context.Context, roomID id.RoomID, raw json.RawMessage, reason error) (out room.Received) {
	out.Err = reason
	var err error
	defer guard(&err)
	return a.Rooms.Refuse(ctx, roomID, []json.RawMessage{raw}, reason)[0]
}

// guard turns a panic of the function that defers it into its error.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

func (a *API) verdict(roomID id.RoomID, r room.Received) verdict {
	if r.Err == nil {
		return verdict{}
	}
	a.Log.Debug("an event was refused", "room", roomID, "event", r.ID, "err", r.Err)
	return verdict{asFailure(r.Err).message}
}
