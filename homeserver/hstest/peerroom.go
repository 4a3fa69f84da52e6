package hstest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Room is what a Peer knows of a room. It takes the state after an event for that of the event before with the greatest
// depth and the event itself, without resolving anything.
type Room struct {
	ID      id.RoomID
	Version *event.Version
	User    id.UserID // the peer's first user in the room, who sends by default

	peer   *Peer
	events map[id.EventID]*event.Event
	after  map[id.EventID]state
	ends   []id.EventID
}

// state is a room's state. It never changes.
type state map[event.StateKeyTuple]*event.Event

// Join brings a user of the peer into a room by way of the server under test.
func (p *Peer) Join(roomID id.RoomID, user id.UserID) *Room {
	p.t.Helper()
	var template struct {
		Version id.RoomVersion  `json:"room_version"`
		Event   json.RawMessage `json:"event"`
	}
	path := "/v1/make_join/" + url.PathEscape(string(roomID)) + "/" + url.PathEscape(string(user)) + "?"
	for _, version := range event.Versions() {
		path += "&ver=" + string(version)
	}
	p.Must("GET", path, nil, &template)
	v, ok := event.VersionOf(template.Version)
	if !ok {
		p.t.Fatalf("%s has version %q", roomID, template.Version)
	}
	proto, err := event.ParseTemplate(v, template.Event)
	if err != nil {
		p.t.Fatal(err)
	}
	join := p.build(v, proto)
	var answer struct {
		State []json.RawMessage `json:"state"`
		Chain []json.RawMessage `json:"auth_chain"`
		Event json.RawMessage   `json:"event"`
	}
	p.Must("PUT", "/v2/send_join/"+url.PathEscape(string(roomID))+"/"+url.PathEscape(string(join.ID)), json.RawMessage(join.JSON), &answer)
	if len(answer.Event) > 0 {
		join = p.Parse(v, answer.Event)
	}
	before := state{}
	r := p.room(roomID, v, user)
	for _, raw := range answer.Chain {
		ev := p.Parse(v, raw)
		r.learn(ev)
	}
	for _, raw := range answer.State {
		ev := p.Parse(v, raw)
		r.learn(ev)
		before[ev.Tuple()] = ev
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.events[join.ID] = join
	r.after[join.ID] = before.with(join)
	r.ends = []id.EventID{join.ID}
	return r
}

// Create makes a room of the peer's own, which anybody may join.
func (p *Peer) Create(version id.RoomVersion, creator id.UserID) *Room {
	p.t.Helper()
	v, ok := event.VersionOf(version)
	if !ok {
		p.t.Fatalf("there is no version %q", version)
	}
	key, self := "", string(creator)
	content := map[string]any{"room_version": version}
	if !v.UseCreateSender {
		content["creator"] = creator
	}
	raw, err := json.Marshal(content)
	if err != nil {
		p.t.Fatal(err)
	}
	create := event.Proto{Type: event.TypeCreate, StateKey: &key, Sender: creator, Content: raw, Depth: 1, OriginServerTS: time.Now().UnixMilli()}
	if !v.RoomIDIsCreateHash {
		p.mu.Lock()
		create.RoomID = id.RoomID(fmt.Sprintf("!room%d:%s", len(p.rooms), p.Name))
		p.mu.Unlock()
	}
	first := p.build(v, create)
	r := p.room(first.RoomID, v, creator)
	r.take(first)
	levels := json.RawMessage(`{"users":{"` + self + `":100}}`)
	if v.PrivilegedCreators {
		levels = json.RawMessage(`{}`)
	}
	r.Event(event.Proto{Type: event.TypeMember, StateKey: &self, Content: json.RawMessage(`{"membership":"join"}`)})
	r.Event(event.Proto{Type: event.TypePowerLevels, StateKey: &key, Content: levels})
	r.Event(event.Proto{Type: event.TypeJoinRules, StateKey: &key, Content: json.RawMessage(`{"join_rule":"public"}`)})
	return r
}

func (p *Peer) room(roomID id.RoomID, v *event.Version, user id.UserID) *Room {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[roomID]
	if r == nil {
		r = &Room{ID: roomID, Version: v, User: user, peer: p, events: map[id.EventID]*event.Event{}, after: map[id.EventID]state{}}
		p.rooms[roomID] = r
	}
	return r
}

// Parse reads an event without checking it; the test fails if it is none.
func (p *Peer) Parse(v *event.Version, raw json.RawMessage) *event.Event {
	p.t.Helper()
	ev, err := event.Parse(v, raw)
	if err != nil {
		p.t.Fatal(err)
	}
	return ev
}

func (p *Peer) build(v *event.Version, proto event.Proto) *event.Event {
	p.t.Helper()
	ev, err := event.Build(v, proto, p.Name, p.Key)
	if err != nil {
		p.t.Fatal(err)
	}
	return ev.Event()
}

// Event makes an event of the room and takes it into what the peer knows. What is not given is chosen as an honest server
// would: Sender is User, PrevEvents are the ends of the room (give older ones to fork), AuthEvents are what the event needs
// from the state after them, Depth is one more than theirs, and OriginServerTS is now.
func (r *Room) Event(proto event.Proto) *event.Event {
	r.peer.t.Helper()
	if proto.Sender == "" {
		proto.Sender = r.User
	}
	if proto.Content == nil {
		proto.Content = json.RawMessage("{}")
	}
	if proto.OriginServerTS == 0 {
		proto.OriginServerTS = time.Now().UnixMilli()
	}
	proto.RoomID = r.ID
	r.peer.mu.Lock()
	r.place(&proto)
	r.peer.mu.Unlock()
	ev := r.peer.build(r.Version, proto)
	r.take(ev)
	return ev
}

// Message is Event for a text message.
func (r *Room) Message(text string) *event.Event {
	r.peer.t.Helper()
	content, err := json.Marshal(map[string]any{"msgtype": "m.text", "body": text})
	if err != nil {
		r.peer.t.Fatal(err)
	}
	return r.Event(event.Proto{Type: "m.room.message", Content: content})
}

// place chooses where in the room an event stands. The caller holds the lock.
func (r *Room) place(proto *event.Proto) {
	if proto.PrevEvents == nil {
		proto.PrevEvents = slices.Clone(r.ends[max(0, len(r.ends)-event.MaxPrevEvents):])
	}
	if proto.Depth == 0 {
		for _, prev := range proto.PrevEvents {
			if ev := r.events[prev]; ev != nil {
				proto.Depth = max(proto.Depth, min(ev.Depth, r.Version.MaxDepth-1)+1)
			}
		}
	}
	if proto.AuthEvents == nil {
		before := r.before(proto.PrevEvents)
		for _, tuple := range eventauth.AuthEventsNeeded(r.Version, proto.Type, proto.StateKey, proto.Sender, proto.Content) {
			if ev := before[tuple]; ev != nil {
				proto.AuthEvents = append(proto.AuthEvents, ev.ID)
			}
		}
	}
	proto.Hashes = map[id.EventID]string{}
	for _, ref := range slices.Concat(proto.PrevEvents, proto.AuthEvents) {
		if ev := r.events[ref]; ev != nil {
			proto.Hashes[ref] = ev.ReferenceHash()
		}
	}
}

// Forge hashes and signs anything as an event, which may lack members or have more of them than there are; the members
// that are not given are those of an event that Event would make, and nil takes one away.
func (r *Room) Forge(proto event.Proto, members map[string]any) json.RawMessage {
	r.peer.t.Helper()
	fail := func(err error) {
		if err != nil {
			r.peer.t.Fatal(err)
		}
	}
	if proto.Sender == "" {
		proto.Sender = r.User
	}
	if proto.Content == nil {
		proto.Content = json.RawMessage("{}")
	}
	proto.RoomID, proto.OriginServerTS = r.ID, time.Now().UnixMilli()
	r.peer.mu.Lock()
	r.place(&proto)
	r.peer.mu.Unlock()
	whole := map[string]any{}
	fail(json.Unmarshal(r.peer.build(r.Version, proto).JSON, &whole))
	delete(whole, "hashes")
	delete(whole, "signatures")
	maps.Copy(whole, members)
	maps.DeleteFunc(whole, func(_ string, value any) bool { return value == nil })
	raw, err := json.Marshal(whole)
	fail(err)
	canonical, err := canonicaljson.CanonicalizeLenient(raw)
	fail(err)
	hash := sha256.Sum256(canonicaljson.Without(canonical, "hashes", "signatures", "unsigned"))
	canonical = canonicaljson.With(canonical, "hashes", []byte(`{"sha256":"`+sign.Base64(hash[:])+`"}`))
	redacted, err := event.RedactJSON(r.Version, canonical)
	fail(err)
	signed, err := sign.AddSignature(canonical, string(r.peer.Name), r.peer.Key.ID, r.peer.Key.Sign(sign.Message(redacted)))
	fail(err)
	return signed
}

// take makes an event known and an end of the room.
func (r *Room) take(ev *event.Event) {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	if r.after[ev.ID] != nil {
		return
	}
	r.events[ev.ID] = ev
	r.after[ev.ID] = r.before(ev.PrevEvents).with(ev)
	r.ends = append(slices.DeleteFunc(r.ends, func(end id.EventID) bool { return slices.Contains(ev.PrevEvents, end) }), ev.ID)
}

// learn makes an event known of whose place nothing is known.
func (r *Room) learn(ev *event.Event) {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	r.events[ev.ID] = ev
}

// before is the state before an event that follows some others. The caller holds the lock.
func (r *Room) before(prevs []id.EventID) state {
	var deepest *event.Event
	for _, prev := range prevs {
		if ev := r.events[prev]; ev != nil && r.after[prev] != nil && (deepest == nil || ev.Depth > deepest.Depth) {
			deepest = ev
		}
	}
	if deepest == nil {
		for _, end := range r.ends {
			return r.after[end]
		}
		return state{}
	}
	return r.after[deepest.ID]
}

func (s state) with(ev *event.Event) state {
	if !ev.IsState() {
		return s
	}
	next := maps.Clone(s)
	if next == nil {
		next = state{}
	}
	next[ev.Tuple()] = ev
	return next
}

// Ends are the ends of the room as the peer knows it.
func (r *Room) Ends() []id.EventID {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	return slices.Clone(r.ends)
}

// Known is an event that the peer knows; nil if it does not.
func (r *Room) Known(eventID id.EventID) *event.Event {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	return r.events[eventID]
}

// State is the state at an end of the room as the peer knows it; nil if there is none of that type and key.
func (r *Room) State(typ, key string) *event.Event {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	return r.before(r.ends)[event.StateKeyTuple{Type: typ, StateKey: key}]
}
