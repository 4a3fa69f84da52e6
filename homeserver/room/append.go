package room

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// errStale says that a room's head has moved since a draft was begun.
var errStale = errors.New("the room's head has moved")

// repeated says that a client's request was answered before.
type repeated struct{ answer string }

func (r *repeated) Error() string { return "the request was answered before" }

// write is the one place where events enter a room, local and remote alike. In order: the head, states (those that
// nothing refers to any longer are noted), ends that the head has no place for, each event
// with the room's state from then on where that is not the one behind it, its memberships, its place in other servers' queues, its relations, redactions and the client's request;
// last the room's summary.
func (d *draft) write(tx *store.Tx) error {
	if d.base == nil {
		if err := tx.Rooms.Insert(d.room, d.head); err != nil {
			return err
		}
	} else if ok, err := tx.Rooms.SwapHead(d.room.NID, *d.base, d.head); err != nil {
		return err // whether the head has moved is not known
	} else if !ok {
		return errStale
	}
	if len(d.snapshots) > 0 {
		if err := d.writeStates(tx); err != nil {
			return err
		}
	}
	if len(d.ends.added)+len(d.ends.gone) > 0 || d.ends.fold != 0 {
		if err := d.ends.write(tx, d.room.NID); err != nil {
			return err
		}
	}
	for _, a := range d.additions {
		if err := a.write(tx); err != nil {
			return err
		}
		if len(a.members) > 0 {
			if err := d.tellJoined(tx, a); err != nil {
				return err
			}
			if a.shown != nil && d.e.Shown != nil {
				if err := d.e.Shown(tx, a.ev.Sender, d.room.ID, *a.shown); err != nil {
					return err
				}
			}
		}
	}
	if d.summaryChanged {
		return tx.Rooms.SetSummary(d.room.NID, d.summary)
	}
	return nil
}

func (d *draft) writeStates(tx *store.Tx) error {
	for _, s := range d.snapshots {
		err := tx.States.Insert(d.room.NID, s.Snapshot, s.parent, s.changes)
		if errors.Is(err, store.ErrStateGone) {
			err = errors.Join(err, errStale)
		}
		if err != nil {
			return err
		}
	}
	return tx.States.Unused(d.unused()...)
}

// unused are the states, among the former head's and those of the draft, that no event of it and no child needs. An
// earlier event may need the former head's.
func (d *draft) unused() []store.StateNID {
	needed := map[store.StateNID]bool{0: true, d.head.State: true, d.ends.fold: true}
	for _, a := range d.additions {
		needed[a.ev.StateBefore], needed[a.resolved] = true, true
	}
	states := make([]store.StateNID, 0, len(d.snapshots)+1)
	if d.base != nil {
		states = append(states, d.base.State)
	}
	for _, s := range d.snapshots {
		states = append(states, s.NID)
		if s.Chain > 0 {
			needed[s.parent] = true
		}
	}
	return slices.DeleteFunc(states, func(n store.StateNID) bool { return needed[n] })
}

func (a *addition) write(tx *store.Tx) error {
	if a.holds {
		if err := tx.States.Hold(a.ev.StateBefore); err != nil {
			return errors.Join(err, errStale)
		}
	}
	change := stream.Change{Wake: a.wake, Servers: a.servers}
	var then func(stream.Position) error
	if len(a.members) > 0 {
		change.Members, change.Moved = true, a.moved()
	}
	if len(a.members) > 0 || a.resolved != 0 {
		then = func(p stream.Position) error { return a.writeAt(tx, p) }
	}
	switch {
	case a.uncovers:
		if err := tx.Events.Uncover(a.ev); err != nil {
			return err
		}
	case a.aside || a.ev.Withheld && !a.sets: // what changes the state has a position, whether it is shown or not
		if err := tx.Events.InsertAside(a.ev); err != nil {
			return err
		}
		if !a.aside {
			tx.Outbox.AddWithheld(a.servers, a.ev.NID) // others may have what it redacts
		}
	case a.past:
		if err := tx.Events.Prepend(a.ev); err != nil {
			return err
		}
	default:
		tx.Events.Append(a.ev, change, then)
	}
	if a.request != nil {
		fresh, err := tx.Requests.Insert(*a.request, string(a.ev.ID), time.Now())
		if err != nil {
			return err
		}
		if !fresh {
			answer, _, err := tx.Requests.Answer(*a.request)
			if err != nil {
				return err // who finds repeated looks no further
			}
			return &repeated{answer}
		}
	}
	if a.came || a.awaited {
		if err := a.arrive(tx); err != nil {
			return err
		}
	}
	for _, m := range a.missing {
		if err := tx.Relations.AddMissing(a.ev.Room, store.Missing{ID: m, Child: a.ev.NID, Origin: peers.Site(a.ev.Sender.Server())}); err != nil {
			return err
		}
	}
	if a.aside {
		return nil
	}
	if r, ok := relationOf(a.ev); ok {
		if !a.ev.Rejected && !a.ev.SoftFailed && !a.ev.Withheld {
			r.Position = a.ev.Position
		}
		if a.ours {
			if err := checkRelation(tx, a.ev.Room, r); err != nil {
				return err
			}
		}
		if err := tx.Relations.Insert(a.ev.Room, r); err != nil {
			return err
		}
	}
	if a.redacts != nil {
		return a.redact(tx)
	}
	return nil
}

// arrive forgets that the event was waited for.
func (a *addition) arrive(tx *store.Tx) error {
	if a.came && (!a.aside || a.past) {
		if err := tx.Relations.Arrived(a.ev.Room, a.ev.ID); err != nil {
			return err
		}
	}
	if a.awaited {
		return tx.Relations.TargetCame(a.ev.Room, a.ev.ID)
	}
	return nil
}

// tellJoined lets the other servers of a room know what they have to know of local users who came.
func (d *draft) tellJoined(tx *store.Tx, a *addition) error {
	if d.e.Joined == nil {
		return nil
	}
	for _, m := range a.members {
		if !m.local || m.Membership.Membership != "join" || m.former == "join" {
			continue
		}
		if len(d.others) > 0 {
			if err := d.e.Joined(tx, m.User, d.others); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved are the users of this server whose memberships change.
func (a *addition) moved() (users []id.UserID) {
	for _, m := range a.members {
		if m.local {
			users = append(users, m.User)
		}
	}
	return users
}

// writeAt writes the room's state and the changes of memberships, now that their position is known.
func (a *addition) writeAt(tx *store.Tx, p stream.Position) error {
	if a.resolved != 0 {
		if err := tx.States.SetAt(a.ev.Room, p, a.resolved); err != nil {
			return fmt.Errorf("resolved state: %w", err)
		}
	}
	for _, m := range a.members {
		m.Position = p
		if err := tx.Memberships.Set(m.Membership, m.former, m.local); err != nil {
			return fmt.Errorf("membership: %w", err)
		}
	}
	return nil
}

// checkRelation refuses what a client may not send (Client-Server API, "Avoiding duplicate annotations" and "Server
// behaviour" of threads). Events of other servers are taken as they are.
func checkRelation(tx *store.Tx, room store.RoomNID, r store.Relation) error {
	var refused bool
	var err, reason error
	switch {
	case r.RelType == "m.annotation" && r.Key != "":
		reason = ErrDuplicate
		refused, err = tx.Relations.Same(room, r)
	case r.RelType == "m.thread":
		reason = ErrNoThreadRoot
		refused, err = tx.Relations.Relates(room, r.Parent)
	}
	if err == nil && refused {
		err = fmt.Errorf("%w: %s", reason, r.Parent)
	}
	return err
}

// relationOf reads how an event relates to another one.
func relationOf(ev *store.Event) (store.Relation, bool) {
	if !bytes.Contains(ev.Content, []byte(`"m.relates_to"`)) || ev.StateKey != nil {
		return store.Relation{}, false
	}
	var content struct {
		RelatesTo struct {
			RelType string     `json:"rel_type"`
			EventID id.EventID `json:"event_id"`
			Key     string     `json:"key"`
		} `json:"m.relates_to"`
	}
	r := &content.RelatesTo
	if json.Unmarshal(ev.Content, &content) != nil || r.RelType == "" || r.EventID == "" ||
		len(r.RelType) > event.MaxFieldLength || len(r.EventID) > id.MaxLength {
		return store.Relation{}, false
	}
	if len(r.Key) > event.MaxFieldLength || r.RelType != "m.annotation" {
		r.Key = ""
	}
	// No relation that makes sense has a NUL in a name, and the database takes none.
	if strings.ContainsRune(r.RelType+string(r.EventID)+r.Key+ev.Type, 0) {
		return store.Relation{}, false
	}
	return store.Relation{Event: ev.NID, Parent: r.EventID, RelType: r.RelType, Type: ev.Type, Sender: ev.Sender, Key: r.Key}, true
}
