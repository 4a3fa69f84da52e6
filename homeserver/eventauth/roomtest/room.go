// Package roomtest makes rooms in memory for the tests of the authorization rules and of state
// resolution: events of every room version on branches that fork and meet, made by hand or by chance.
// It is called by tests only and knows nothing but the pure packages.
package roomtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Room is a room with all its events. All that is done to it depends on nothing but the calls, so that
// the same calls give the same event IDs.
type Room struct {
	Version *event.Version
	ID      id.RoomID
	Create  *event.Event
	// All are the room's events in the order of their making.
	All    []*event.Event
	events map[id.EventID]*event.Event
	key    sign.Key
}

// Branch is a place in the room's history.
type Branch struct {
	Room  *Room
	State eventauth.Map
	Heads []id.EventID
	depth int64
}

// Event is what a test says of an event; the rest follows from the branch.
type Event struct {
	Type     string
	StateKey *string
	Sender   id.UserID
	Content  string // JSON
	TS       int64
	Redacts  id.EventID
}

// New is a room with nothing but its m.room.create, and the branch that begins there. members are added to
// the content of the m.room.create, such as `"m.federate":false`.
func New(v *event.Version, creator id.UserID, members string) *Branch {
	seed := sha256.Sum256([]byte("roomtest"))
	r := &Room{
		Version: v, ID: id.RoomID("!room:" + string(creator.Server())), events: make(map[id.EventID]*event.Event),
		key: sign.Key{ID: "ed25519:test", Private: ed25519.NewKeyFromSeed(seed[:])},
	}
	content := fmt.Sprintf(`{"room_version":%q`, v.ID)
	if !v.UseCreateSender {
		content += fmt.Sprintf(`,"creator":%q`, creator)
	}
	if members != "" {
		content += "," + members
	}
	b := &Branch{Room: r, State: eventauth.Map{}}
	proto := event.Proto{Type: event.TypeCreate, StateKey: Key(""), Sender: creator, RoomID: r.ID, Content: json.RawMessage(content + "}"), Depth: 1}
	if v.RoomIDIsCreateHash {
		proto.RoomID = ""
	}
	r.Create = r.build(proto)
	r.ID = r.Create.RoomID
	b.Add(r.Create)
	return b
}

// Key is a state key.
func Key(s string) *string { return &s }

// Event implements stateres.Events.
func (r *Room) Event(eventID id.EventID) *event.Event { return r.events[eventID] }

// Rejected implements stateres.Events.
func (r *Room) Rejected(id.EventID) bool { return false }

// Make makes an event that follows the branch, and adds it to the room but not to the branch.
func (b *Branch) Make(e Event) *event.Event {
	r := b.Room
	proto := event.Proto{
		Type: e.Type, StateKey: e.StateKey, Sender: e.Sender, RoomID: r.ID, Content: json.RawMessage(e.Content),
		PrevEvents: b.Heads, Depth: b.depth + 1, OriginServerTS: e.TS, Redacts: e.Redacts,
	}
	for _, needed := range eventauth.AuthEventsNeeded(r.Version, e.Type, e.StateKey, e.Sender, proto.Content) {
		if auth := b.State[needed]; auth != nil {
			proto.AuthEvents = append(proto.AuthEvents, auth.ID)
		}
	}
	return r.build(proto)
}

// Send is Make, and adds the event to the branch if it is allowed there.
func (b *Branch) Send(e Event) (*event.Event, error) {
	made := b.Make(e)
	if err := eventauth.Authorize(made, b.State, b.Room.Create); err != nil {
		return made, err
	}
	b.Add(made)
	return made, nil
}

// Must is Send of an event that has to be allowed.
func (b *Branch) Must(e Event) *event.Event {
	made, err := b.Send(e)
	if err != nil {
		panic(fmt.Sprintf("%s by %s: %v", e.Type, e.Sender, err))
	}
	return made
}

// Add makes an event the branch's head and, if it is a state event, part of its state.
func (b *Branch) Add(e *event.Event) {
	b.Heads = []id.EventID{e.ID}
	b.depth = max(b.depth, e.Depth)
	if e.StateKey != nil {
		b.State[e.Tuple()] = e
	}
}

// Fork is another branch from the same place.
func (b *Branch) Fork() *Branch {
	fork := *b
	fork.State = make(eventauth.Map, len(b.State))
	for key, e := range b.State {
		fork.State[key] = e
	}
	return &fork
}

// IDs is the branch's state by event IDs.
func (b *Branch) IDs() map[event.StateKeyTuple]id.EventID {
	ids := make(map[event.StateKeyTuple]id.EventID, len(b.State))
	for key, e := range b.State {
		ids[key] = e.ID
	}
	return ids
}

// Meet is the place behind several branches, whose state is the resolution of theirs.
func Meet(state map[event.StateKeyTuple]id.EventID, branches ...*Branch) *Branch {
	b := &Branch{Room: branches[0].Room, State: make(eventauth.Map, len(state))}
	for key, eventID := range state {
		b.State[key] = b.Room.events[eventID]
	}
	for _, other := range branches {
		for _, head := range other.Heads {
			if !slices.Contains(b.Heads, head) && len(b.Heads) < event.MaxPrevEvents {
				b.Heads = append(b.Heads, head)
			}
		}
		b.depth = max(b.depth, other.depth)
	}
	return b
}

func (r *Room) build(p event.Proto) *event.Event {
	p.Hashes = make(map[id.EventID]string)
	for _, eventID := range append(p.PrevEvents, p.AuthEvents...) {
		p.Hashes[eventID] = sign.Base64(make([]byte, sha256.Size))
	}
	built, err := event.Build(r.Version, p, p.Sender.Server(), r.key)
	e := built.Event()
	if err == nil && r.Version.EventIDs == event.EventIDInEvent {
		// Such an ID is random. The signature may be wrong after this; nobody looks at it.
		hash := sha256.Sum256([]byte(fmt.Sprint(len(r.All))))
		eventID := id.EventID("$" + base64.RawURLEncoding.EncodeToString(hash[:9]) + ":" + string(p.Sender.Server()))
		e, err = event.ParseTrusted(r.Version, eventID, bytes.ReplaceAll(e.JSON, []byte(e.ID), []byte(eventID)))
	}
	if via := viaServer(p); err == nil && via != "" {
		e, err = e.Sign(via, r.key)
	}
	if err != nil {
		panic(fmt.Sprintf("build %s: %v", p.Type, err))
	}
	r.All = append(r.All, e)
	r.events[e.ID] = e
	return e
}

// viaServer is the server that has to sign a restricted join.
func viaServer(p event.Proto) id.ServerName {
	var content struct {
		Via id.UserID `json:"join_authorised_via_users_server"`
	}
	if p.Type != event.TypeMember || json.Unmarshal(p.Content, &content) != nil {
		return ""
	}
	return content.Via.Server()
}
