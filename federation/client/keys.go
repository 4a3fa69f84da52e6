package client

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
)

// ServerKeys fetches a server's signing keys from itself: the signed object, to be verified by the caller.
func (c *Client) ServerKeys(ctx context.Context, to id.ServerName) (json.RawMessage, error) {
	request := get(limitSmall, "/_matrix/key/v2/server", nil)
	request.unsigned = true
	var keys json.RawMessage
	err := c.do(ctx, to, request, &keys)
	return keys, err
}

// KeyCriteria is what a notary is asked of one key.
type KeyCriteria struct {
	// MinimumValidUntil is in milliseconds since 1970; zero leaves it to the notary.
	MinimumValidUntil int64 `json:"minimum_valid_until_ts,omitempty"`
}

// NotaryQuery asks a notary for other servers' keys; a server without criteria is asked for all its keys.
// The objects that come back are signed by their server and by the notary, to be verified by the caller.
func (c *Client) NotaryQuery(ctx context.Context, notary id.ServerName, servers map[id.ServerName]map[id.KeyID]KeyCriteria) ([]json.RawMessage, error) {
	criteria := make(map[id.ServerName]map[id.KeyID]KeyCriteria, len(servers))
	for server, keys := range servers {
		if criteria[server] = keys; keys == nil {
			criteria[server] = map[id.KeyID]KeyCriteria{} // null would be no object
		}
	}
	request, err := send(http.MethodPost, limitLists, "/_matrix/key/v2/query", map[string]any{"server_keys": criteria})
	if err != nil {
		return nil, err
	}
	request.unsigned = true
	var keys []json.RawMessage
	err = c.doMembers(ctx, notary, request, map[string]member{"server_keys": each(&keys, maxPage, maxEntry)})
	return keys, err
}

// UserDevices are the devices of a user of the other server, as it says.
type UserDevices struct {
	UserID   id.UserID    `json:"user_id"`
	StreamID int64        `json:"stream_id"`
	Devices  []UserDevice `json:"devices"`
	// MasterKey and SelfSigningKey are nil if the user has no cross-signing keys.
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is one device; its keys are a signed object.
type UserDevice struct {
	DeviceID    id.DeviceID     `json:"device_id"`
	Keys        json.RawMessage `json:"keys"`
	DisplayName string          `json:"device_display_name,omitempty"`
}

// UserDevices lists a user's devices and keys.
func (c *Client) UserDevices(ctx context.Context, to id.ServerName, user id.UserID) (UserDevices, error) {
	var answer UserDevices
	path := join(federation1+"/user/devices", string(user))
	request := get(limitLists, path, nil)
	request.counted = true // a client has many servers asked at once
	if err := c.do(ctx, to, request, &answer); err != nil {
		return UserDevices{}, err
	}
	if answer.UserID != user {
		return UserDevices{}, malformed(to, path, errOther)
	}
	return answer, nil
}

// QueriedKeys are the device and cross-signing keys of users, each a signed object.
type QueriedKeys struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys,omitempty"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys,omitempty"`
}

// KeysQuery asks for the keys of users' devices; an empty list of devices asks for all. Users who were not
// asked for are left out of the answer: the other server has no say about them.
func (c *Client) KeysQuery(ctx context.Context, to id.ServerName, users map[id.UserID][]id.DeviceID) (QueriedKeys, error) {
	wanted := make(map[id.UserID][]id.DeviceID, len(users))
	for user, devices := range users {
		if wanted[user] = devices; devices == nil {
			wanted[user] = []id.DeviceID{} // null would be no list
		}
	}
	var answer QueriedKeys
	request, err := send(http.MethodPost, limitLists, federation1+"/user/keys/query", map[string]any{"device_keys": wanted})
	if err != nil {
		return QueriedKeys{}, err
	}
	request.counted = true
	err = c.do(ctx, to, request, &answer)
	unasked := func(user id.UserID) bool { _, asked := users[user]; return !asked }
	maps.DeleteFunc(answer.DeviceKeys, func(user id.UserID, _ map[id.DeviceID]json.RawMessage) bool { return unasked(user) })
	maps.DeleteFunc(answer.MasterKeys, func(user id.UserID, _ json.RawMessage) bool { return unasked(user) })
	maps.DeleteFunc(answer.SelfSigningKeys, func(user id.UserID, _ json.RawMessage) bool { return unasked(user) })
	return answer, err
}

// ClaimedKeys are one-time keys by user, device and the key's ID.
type ClaimedKeys map[id.UserID]map[id.DeviceID]map[id.KeyID]json.RawMessage

// KeysClaim takes a one-time key of the given algorithm of each device. Users who were not asked for are
// left out of the answer.
func (c *Client) KeysClaim(ctx context.Context, to id.ServerName, wanted map[id.UserID]map[id.DeviceID]string) (ClaimedKeys, error) {
	request, err := send(http.MethodPost, limitLists, federation1+"/user/keys/claim", map[string]any{"one_time_keys": wanted})
	if err != nil {
		return nil, err
	}
	request.once = true // a second attempt would use up further keys
	var answer struct {
		OneTimeKeys ClaimedKeys `json:"one_time_keys"`
	}
	err = c.do(ctx, to, request, &answer)
	maps.DeleteFunc(answer.OneTimeKeys, func(user id.UserID, _ map[id.DeviceID]map[id.KeyID]json.RawMessage) bool {
		_, asked := wanted[user]
		return !asked
	})
	return answer.OneTimeKeys, err
}
