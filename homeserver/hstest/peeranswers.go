package hstest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// honest is what a Peer answers by itself.
func (p *Peer) honest() *http.ServeMux {
	m := http.NewServeMux()
	const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
	m.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, r *http.Request) { Answer(200, p.Keys())(w, r) })
	m.HandleFunc("GET "+v1+"/version", Answer(200, map[string]any{"server": map[string]any{"name": "a peer of a test"}}))
	m.HandleFunc("GET "+v1+"/user/devices/{user}", func(w http.ResponseWriter, r *http.Request) {
		Answer(200, map[string]any{"user_id": r.PathValue("user"), "stream_id": 1, "devices": []any{}})(w, r)
	})
	m.HandleFunc("POST "+v1+"/user/keys/query", Answer(200, map[string]any{"device_keys": map[string]any{}}))
	m.HandleFunc("POST "+v1+"/user/keys/claim", Answer(200, map[string]any{"one_time_keys": map[string]any{}}))
	m.HandleFunc("GET "+v1+"/query/profile", Answer(200, map[string]any{}))
	m.HandleFunc("PUT "+v1+"/send/{txn}", p.receive)
	m.HandleFunc("PUT "+v2+"/invite/{room}/{event}", p.invited)
	m.HandleFunc("GET "+v1+"/event/{event}", p.answerEvent)
	m.HandleFunc("GET "+v1+"/state/{room}", p.answerState)
	m.HandleFunc("GET "+v1+"/state_ids/{room}", p.answerStateIDs)
	m.HandleFunc("GET "+v1+"/event_auth/{room}/{event}", p.answerAuth)
	m.HandleFunc("GET "+v1+"/backfill/{room}", p.answerBackfill)
	m.HandleFunc("POST "+v1+"/get_missing_events/{room}", p.answerMissing)
	for _, membership := range []string{"join", "leave", "knock"} {
		m.HandleFunc("GET "+v1+"/make_"+membership+"/{room}/{user}", func(w http.ResponseWriter, r *http.Request) { p.answerMake(membership, w, r) })
	}
	m.HandleFunc("PUT "+v2+"/send_join/{room}/{event}", p.answerSend)
	m.HandleFunc("PUT "+v2+"/send_leave/{room}/{event}", p.answerSend)
	m.HandleFunc("PUT "+v1+"/send_knock/{room}/{event}", p.answerSend)
	m.HandleFunc("/", Answer(404, map[string]any{"errcode": "M_UNRECOGNIZED", "error": "not known to a peer of a test"}))
	return m
}

// Keys is the peer's list of keys as it publishes it.
func (p *Peer) Keys() json.RawMessage {
	list, err := json.Marshal(map[string]any{
		"server_name": p.Name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[id.KeyID]any{p.Key.ID: map[string]any{"key": sign.Base64(p.Key.Public())}},
	})
	if err == nil {
		list, err = sign.JSON(list, string(p.Name), p.Key)
	}
	if err != nil {
		panic(err)
	}
	return list
}

// receive takes in what the server under test sends.
func (p *Peer) receive(w http.ResponseWriter, r *http.Request) {
	var body struct {
		PDUs []json.RawMessage `json:"pdus"`
		EDUs []EDU             `json:"edus"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		Answer(400, map[string]any{"errcode": "M_NOT_JSON"})(w, r)
		return
	}
	for _, raw := range body.PDUs {
		var head struct {
			Room id.RoomID `json:"room_id"`
		}
		if json.Unmarshal(raw, &head) != nil {
			continue
		}
		if known := p.known(head.Room); known != nil {
			if ev, err := event.Parse(known.Version, raw); err == nil {
				known.take(ev)
			}
		}
	}
	p.mu.Lock()
	p.edus = append(p.edus, body.EDUs...)
	p.mu.Unlock()
	Answer(200, map[string]any{"pdus": map[string]any{}})(w, r)
}

func (p *Peer) known(roomID id.RoomID) *Room {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rooms[roomID]
}

// invited signs whatever invite it is given, if what it is told of the room are events of the room's version, and
// m.room.create among them.
func (p *Peer) invited(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Version id.RoomVersion    `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if json.NewDecoder(r.Body).Decode(&body) == nil {
		if v, ok := event.VersionOf(body.Version); ok {
			created := false
			for _, raw := range body.State {
				ev, err := event.Parse(v, raw)
				if err != nil {
					Answer(400, map[string]any{"errcode": "M_INVALID_PARAM", "error": err.Error()})(w, r)
					return
				}
				created = created || ev.Type == event.TypeCreate
			}
			if !created {
				Answer(400, map[string]any{"errcode": "M_INVALID_PARAM", "error": "m.room.create is missing"})(w, r)
				return
			}
			if ev, err := event.Parse(v, body.Event); err == nil {
				if ev, err = ev.Sign(p.Name, p.Key); err == nil {
					Answer(200, map[string]any{"event": json.RawMessage(ev.JSON)})(w, r)
					return
				}
			}
		}
	}
	Answer(400, map[string]any{"errcode": "M_BAD_JSON"})(w, r)
}

var notFound = Answer(404, map[string]any{"errcode": "M_NOT_FOUND", "error": "not known here"})

func pdus(events []*event.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, ev := range events {
		out[i] = ev.JSON
	}
	return out
}

func ids(events []*event.Event) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, ev := range events {
		out[i] = ev.ID
	}
	return out
}

func (p *Peer) answerEvent(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	var found *event.Event
	for _, room := range p.rooms {
		if ev := room.events[id.EventID(r.PathValue("event"))]; ev != nil {
			found = ev
		}
	}
	p.mu.Unlock()
	if found == nil {
		notFound(w, r)
		return
	}
	Answer(200, map[string]any{"origin": p.Name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus([]*event.Event{found})})(w, r)
}

// stateBefore is the state before an event that a request names, and its auth chain.
func (p *Peer) stateBefore(r *http.Request) (state, chain []*event.Event) {
	room := p.known(id.RoomID(r.PathValue("room")))
	if room == nil {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ev := room.events[id.EventID(r.URL.Query().Get("event_id"))]
	if ev == nil {
		return nil, nil
	}
	for _, s := range room.before(ev.PrevEvents) {
		state = append(state, s)
	}
	return state, room.chain(state)
}

// chain is the auth chain of events. The caller holds the lock.
func (r *Room) chain(of []*event.Event) (chain []*event.Event) {
	seen := map[id.EventID]bool{}
	for queue := slices.Clone(of); len(queue) > 0; queue = queue[1:] {
		for _, auth := range queue[0].AuthEvents {
			if ev := r.events[auth]; ev != nil && !seen[auth] {
				seen[auth] = true
				chain, queue = append(chain, ev), append(queue, ev)
			}
		}
	}
	return chain
}

func (p *Peer) answerState(w http.ResponseWriter, r *http.Request) {
	state, chain := p.stateBefore(r)
	if state == nil {
		notFound(w, r)
		return
	}
	Answer(200, map[string]any{"pdus": pdus(state), "auth_chain": pdus(chain)})(w, r)
}

func (p *Peer) answerStateIDs(w http.ResponseWriter, r *http.Request) {
	state, chain := p.stateBefore(r)
	if state == nil {
		notFound(w, r)
		return
	}
	Answer(200, map[string]any{"pdu_ids": ids(state), "auth_chain_ids": ids(chain)})(w, r)
}

func (p *Peer) answerAuth(w http.ResponseWriter, r *http.Request) {
	var chain []*event.Event
	room := p.known(id.RoomID(r.PathValue("room")))
	if room != nil {
		p.mu.Lock()
		if ev := room.events[id.EventID(r.PathValue("event"))]; ev != nil {
			chain = room.chain([]*event.Event{ev})
		}
		p.mu.Unlock()
	}
	Answer(200, map[string]any{"auth_chain": pdus(chain)})(w, r)
}

// back walks from some events to those before them, without those in but.
func (r *Room) back(from, but []id.EventID, limit int) (out []*event.Event) {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	seen := map[id.EventID]bool{}
	for queue := slices.Clone(from); len(queue) > 0 && len(out) < limit; queue = queue[1:] {
		ev := r.events[queue[0]]
		if ev == nil || seen[ev.ID] || slices.Contains(but, ev.ID) {
			continue
		}
		seen[ev.ID] = true
		out, queue = append(out, ev), append(queue, ev.PrevEvents...)
	}
	return out
}

func (p *Peer) answerBackfill(w http.ResponseWriter, r *http.Request) {
	room := p.known(id.RoomID(r.PathValue("room")))
	if room == nil {
		notFound(w, r)
		return
	}
	var from []id.EventID
	for _, v := range r.URL.Query()["v"] {
		from = append(from, id.EventID(v))
	}
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	events := room.back(from, nil, limit)
	Answer(200, map[string]any{"origin": p.Name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus(events)})(w, r)
}

func (p *Peer) answerMissing(w http.ResponseWriter, r *http.Request) {
	room := p.known(id.RoomID(r.PathValue("room")))
	body := struct {
		Earliest []id.EventID `json:"earliest_events"`
		Latest   []id.EventID `json:"latest_events"`
		Limit    int          `json:"limit"`
	}{Limit: 10}
	if room == nil || json.NewDecoder(r.Body).Decode(&body) != nil {
		notFound(w, r)
		return
	}
	events := slices.DeleteFunc(room.back(body.Latest, body.Earliest, body.Limit+len(body.Latest)), func(ev *event.Event) bool {
		return slices.Contains(body.Latest, ev.ID)
	})
	slices.Reverse(events)
	Answer(200, map[string]any{"events": pdus(events)})(w, r)
}

// answerMake gives out the template of any membership.
func (p *Peer) answerMake(membership string, w http.ResponseWriter, r *http.Request) {
	room, user := p.known(id.RoomID(r.PathValue("room"))), r.PathValue("user")
	if room == nil {
		notFound(w, r)
		return
	}
	proto := event.Proto{
		Type: event.TypeMember, StateKey: &user, Sender: id.UserID(user), RoomID: room.ID, OriginServerTS: time.Now().UnixMilli(),
		Content: json.RawMessage(`{"membership":"` + membership + `"}`),
	}
	p.mu.Lock()
	room.place(&proto)
	p.mu.Unlock()
	template, err := room.Version.Template(proto)
	if err != nil {
		Answer(400, map[string]any{"errcode": "M_BAD_JSON", "error": err.Error()})(w, r)
		return
	}
	Answer(200, map[string]any{"room_version": room.Version.ID, "event": json.RawMessage(template)})(w, r)
}

// answerSend takes in any membership.
func (p *Peer) answerSend(w http.ResponseWriter, r *http.Request) {
	room := p.known(id.RoomID(r.PathValue("room")))
	var raw json.RawMessage
	if room == nil || json.NewDecoder(r.Body).Decode(&raw) != nil {
		notFound(w, r)
		return
	}
	ev, err := event.Parse(room.Version, raw)
	if err != nil {
		Answer(400, map[string]any{"errcode": "M_BAD_JSON", "error": err.Error()})(w, r)
		return
	}
	var state []*event.Event
	p.mu.Lock()
	for _, s := range room.before(ev.PrevEvents) {
		state = append(state, s)
	}
	chain := room.chain(state)
	p.mu.Unlock()
	room.take(ev)
	Answer(200, map[string]any{
		"origin": p.Name, "event": json.RawMessage(ev.JSON), "state": pdus(state), "auth_chain": pdus(chain),
		"members_omitted": false, "knock_room_state": []any{},
	})(w, r)
}
