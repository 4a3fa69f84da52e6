package clientapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

// streamRequest is a request on a websocket.
type streamRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// answer carries out a request: {"id", "result"} or {"id", "error"}.
func (k *connection) answer(raw []byte) []byte {
	var r streamRequest
	if err := unmarshal(raw, &r); err != nil {
		return answerOf(r.ID, nil, err, k.a) // with what could be read of it
	}
	result, err := k.request(&r)
	return answerOf(r.ID, result, err, k.a)
}

func answerOf(name json.RawMessage, result any, err error, a *API) []byte {
	if len(name) == 0 {
		name = json.RawMessage("null")
	}
	out := map[string]any{"id": name}
	if err == nil {
		if result == nil {
			result = emptyObject
		}
		out["result"] = result
	} else {
		f := asFailure(err)
		if f == nil {
			a.Log.Error("a request on a websocket failed", "err", err)
			f = &failure{code: "M_UNKNOWN", message: "internal error; the server's log says more"}
		}
		body := map[string]any{"errcode": f.code, "error": f.message}
		if f.after > 0 {
			body["retry_after_ms"] = f.after.Milliseconds()
		}
		out["error"] = body
	}
	raw, err := json.Marshal(out)
	if err != nil {
		a.Log.Error("an answer on a websocket cannot be encoded", "err", err)
		return []byte(`{"id":null,"error":{"errcode":"M_UNKNOWN","error":"internal error"}}`)
	}
	return raw
}

func (k *connection) request(r *streamRequest) (any, error) {
	if len(r.Params) == 0 || string(r.Params) == "null" {
		r.Params = emptyObject
	}
	if r.Method != "ping" {
		if err := k.a.limiter.check(limitMessage, k.call); err != nil {
			return nil, err
		}
		if err := k.a.limiter.checkMore(limitMessage, k.call, load.MoreCalls(len(r.Params))); err != nil {
			return nil, err
		}
	}
	switch r.Method {
	case "ping":
		return nil, k.ping(r.Params)
	case "send":
		return k.sendRequest(r.Params, false)
	case "state":
		return k.sendRequest(r.Params, true)
	case "typing":
		return nil, k.typing(r.Params)
	case "receipt":
		return nil, k.receipt(r.Params)
	default:
		return nil, fail(http.StatusNotFound, "M_UNRECOGNIZED", "there is no such method")
	}
}

// ping may say up to where the client has everything, so that what waits for it until then can be deleted.
func (k *connection) ping(params json.RawMessage) error {
	var in struct {
		Since string `json:"since"`
	}
	if err := unmarshal(params, &in); err != nil || in.Since == "" {
		return err
	}
	token, err := k.a.syncToken(k.ctx, in.Since)
	if err != nil || token == nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sync.Since != nil && token.Position <= k.sync.Since.Position && token.Position > k.confirmed.Position {
		k.confirmed = *token
	}
	return nil
}

func (k *connection) sendRequest(params json.RawMessage, state bool) (any, error) {
	var in struct {
		Room     id.RoomID       `json:"room_id"`
		Type     string          `json:"type"`
		StateKey string          `json:"state_key"`
		TxnID    string          `json:"txn_id"`
		Content  json.RawMessage `json:"content"`
		Redacts  id.EventID      `json:"redacts"`
	}
	if err := unmarshal(params, &in); err != nil {
		return nil, err
	}
	if err := checkRoom(in.Room); err != nil {
		return nil, err
	}
	if in.Type == "" || !isObject(in.Content) {
		return nil, fail(http.StatusBadRequest, "M_BAD_JSON", "type and content are needed")
	}
	if state {
		return k.a.setState(k.call, in.Room, in.Type, in.StateKey, in.Content)
	}
	m, err := k.message(in.Room, in.Type, in.TxnID, in.Content, in.Redacts)
	if err != nil {
		return nil, err
	}
	eventID, err := k.a.Rooms.Send(k.ctx, m)
	if err != nil {
		return nil, err
	}
	return sent(eventID), nil
}

// checkRoom checks a room that is named in the parameters.
func checkRoom(room id.RoomID) error {
	if room == "" {
		return missing("room_id")
	}
	_, err := id.ParseRoomID(string(room))
	return err
}

func (k *connection) typing(params json.RawMessage) error {
	var in struct {
		Room    id.RoomID `json:"room_id"`
		Typing  bool      `json:"typing"`
		Timeout int64     `json:"timeout"`
	}
	if err := unmarshal(params, &in); err != nil {
		return err
	}
	if err := checkRoom(in.Room); err != nil {
		return err
	}
	timeout := time.Duration(min(max(in.Timeout, 0), maxTypingTimeout)) * time.Millisecond
	return k.a.Ephemeral.SetTyping(k.ctx, in.Room, k.Requester.User, in.Typing, timeout)
}

func (k *connection) receipt(params json.RawMessage) error {
	var in struct {
		Room   id.RoomID  `json:"room_id"`
		Type   string     `json:"type"`
		Event  id.EventID `json:"event_id"`
		Thread *string    `json:"thread_id"`
	}
	if err := unmarshal(params, &in); err != nil {
		return err
	}
	if err := checkRoom(in.Room); err != nil {
		return err
	}
	if in.Event == "" {
		return missing("event_id")
	}
	if in.Type == "" {
		in.Type = ephemeral.Read
	}
	m, err := markOf(in.Type, in.Event, in.Thread)
	if err != nil {
		return err
	}
	return k.a.Ephemeral.SetMarks(k.ctx, in.Room, k.Requester.User, m)
}
