package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// MaxPDUs and MaxEDUs are the largest numbers in one transaction (Server-Server API, "Transactions").
	MaxPDUs = 50
	MaxEDUs = 100
)

var (
	errMissing = errors.New("the event is missing")
	errOther   = errors.New("it is about something else")
)

// Transaction is what one server sends to another in one go.
type Transaction struct {
	OriginServerTS int64 // milliseconds since 1970
	PDUs           []json.RawMessage
	EDUs           []json.RawMessage
}

// TransactionResult says which events the other server could not take, and why, in its words.
type TransactionResult struct {
	PDUs map[id.EventID]struct {
		Error string `json:"error"`
	} `json:"pdus"`
}

// SendTransaction delivers a transaction. The same txnID may be sent again until it was answered.
func (c *Client) SendTransaction(ctx context.Context, to id.ServerName, txnID string, t Transaction) (TransactionResult, error) {
	if len(t.PDUs) > MaxPDUs || len(t.EDUs) > MaxEDUs {
		return TransactionResult{}, fmt.Errorf("sending a transaction of %d and %d: more than %d PDUs or %d EDUs", len(t.PDUs), len(t.EDUs), MaxPDUs, MaxEDUs)
	}
	request := call{method: http.MethodPut, path: join(federation1+"/send", txnID), body: c.encode(t), limit: limitSmall}
	var answer TransactionResult
	err := c.do(ctx, to, request, &answer)
	return answer, err
}

// encode writes a transaction by hand: its events are JSON already, and this is the most frequent request.
// If one were no JSON after all, signing would fail.
func (c *Client) encode(t Transaction) []byte {
	size := 256
	for _, raw := range t.PDUs {
		size += len(raw) + 1
	}
	for _, raw := range t.EDUs {
		size += len(raw) + 1
	}
	b := append(make([]byte, 0, size), `{"edus":`...)
	b = append(appendList(b, t.EDUs), `,"origin":`...)
	b = append(canonicaljson.AppendString(b, string(c.Server)), `,"origin_server_ts":`...)
	b = append(strconv.AppendInt(b, t.OriginServerTS, 10), `,"pdus":`...)
	return append(appendList(b, t.PDUs), '}')
}

func appendList(b []byte, list []json.RawMessage) []byte {
	b = append(b, '[')
	for i, raw := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	return append(b, ']')
}

// Event fetches one event.
func (c *Client) Event(ctx context.Context, to id.ServerName, event id.EventID) (json.RawMessage, error) {
	path := join(federation1+"/event", string(event))
	pdus, err := c.pdus(ctx, to, get(limitSmall, path, nil))
	if err != nil {
		return nil, err
	}
	if len(pdus) != 1 {
		return nil, malformed(to, path, errMissing)
	}
	return pdus[0], nil
}

// pdus makes a call that is answered in the form of a transaction.
func (c *Client) pdus(ctx context.Context, to id.ServerName, request call) ([]json.RawMessage, error) {
	var pdus []json.RawMessage
	err := c.doMembers(ctx, to, request, map[string]member{"pdus": each(&pdus, maxPage, maxEntry)})
	return pdus, err
}

// EventAuth fetches the auth chain of an event.
func (c *Client) EventAuth(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	request := get(limitStates, join(federation1+"/event_auth", string(room), string(event)), nil)
	request.timeout = timeoutLong
	var chain []json.RawMessage
	err := c.doMembers(ctx, to, request, map[string]member{"auth_chain": each(&chain, maxList, maxEntry)})
	return chain, err
}

// RoomState is the state of a room before an event.
type RoomState struct {
	PDUs      []json.RawMessage
	AuthChain []json.RawMessage
}

// State fetches the state of a room before an event.
func (c *Client) State(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID) (RoomState, error) {
	request := get(limitStates, join(federation1+"/state", string(room)), url.Values{"event_id": {string(event)}})
	request.timeout = timeoutLong
	var answer RoomState
	err := c.doMembers(ctx, to, request, map[string]member{
		"pdus": each(&answer.PDUs, maxList, maxEntry), "auth_chain": each(&answer.AuthChain, maxList, maxEntry),
	})
	return answer, err
}

// RoomStateIDs is RoomState by event IDs.
type RoomStateIDs struct {
	PDUIDs       []id.EventID
	AuthChainIDs []id.EventID
}

// StateIDs fetches the IDs of the state of a room before an event. Entries that are no event IDs are left out.
func (c *Client) StateIDs(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID) (RoomStateIDs, error) {
	request := get(limitIDs, join(federation1+"/state_ids", string(room)), url.Values{"event_id": {string(event)}})
	request.timeout = timeoutLong
	var answer RoomStateIDs
	err := c.doMembers(ctx, to, request, map[string]member{
		"pdu_ids": each(&answer.PDUIDs, maxList, maxName), "auth_chain_ids": each(&answer.AuthChainIDs, maxList, maxName),
	})
	if err != nil {
		return RoomStateIDs{}, err
	}
	answer.PDUIDs = only(answer.PDUIDs, id.ParseEventID)
	answer.AuthChainIDs = only(answer.AuthChainIDs, id.ParseEventID)
	return answer, nil
}

// Backfill fetches events that precede the given ones, and those themselves: at most limit, if the other
// server keeps to it.
func (c *Client) Backfill(ctx context.Context, to id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, event := range from {
		query.Add("v", string(event))
	}
	request := get(limitLists, join(federation1+"/backfill", string(room)), query)
	request.counted = true
	return c.pdus(ctx, to, request)
}

// MissingEvents is the question for events between those that we have and newer ones.
type MissingEvents struct {
	EarliestEvents []id.EventID `json:"earliest_events"`
	LatestEvents   []id.EventID `json:"latest_events"`
	Limit          int          `json:"limit,omitempty"` // 10 if zero
	MinDepth       int64        `json:"min_depth,omitempty"`
}

// MissingEvents fetches the events before the latest and after the earliest ones.
func (c *Client) MissingEvents(ctx context.Context, to id.ServerName, room id.RoomID, m MissingEvents) ([]json.RawMessage, error) {
	if m.EarliestEvents == nil {
		m.EarliestEvents = []id.EventID{} // null would be no list
	}
	request, err := send(http.MethodPost, limitLists, join(federation1+"/get_missing_events", string(room)), m)
	if err != nil {
		return nil, err
	}
	request.counted = true
	var events []json.RawMessage
	err = c.doMembers(ctx, to, request, map[string]member{"events": each(&events, maxPage, maxEntry)})
	return events, err
}

// TimestampToEvent finds the event closest to a time in milliseconds since 1970; dir is "f" for at or after
// it, "b" for at or before it.
func (c *Client) TimestampToEvent(ctx context.Context, to id.ServerName, room id.RoomID, ts int64, dir string) (id.EventID, int64, error) {
	path := join(federation1+"/timestamp_to_event", string(room))
	var answer struct {
		EventID        id.EventID `json:"event_id"`
		OriginServerTS int64      `json:"origin_server_ts"`
	}
	query := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}
	if err := c.do(ctx, to, get(limitSmall, path, query), &answer); err != nil {
		return "", 0, err
	}
	if _, err := id.ParseEventID(string(answer.EventID)); err != nil {
		return "", 0, malformed(to, path, err)
	}
	return answer.EventID, answer.OriginServerTS, nil
}
