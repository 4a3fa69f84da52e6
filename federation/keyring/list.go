package keyring

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxKeys bounds how many keys of one server are taken from a list.
	maxKeys = 100
	// maxValidity is how long a server can promise that a key stays valid: a stolen key shall not live
	// for ever (GET /_matrix/key/v2/server, "valid_until_ts").
	maxValidity = 7 * 24 * time.Hour
)

// errBadList says that a list of keys is not what it should be.
var errBadList = errors.New("malformed list of signing keys")

// list is a server's list of its keys, checked.
type list struct {
	store.ServerKeyList
	keys []store.ServerKey
}

// publicKey is an entry of "verify_keys" and "old_verify_keys".
type publicKey struct {
	Key       string `json:"key"`
	ExpiredTS int64  `json:"expired_ts"`
}

func (k publicKey) decode() (sign.PublicKey, bool) {
	raw, err := sign.DecodeBase64(k.Key)
	return raw, err == nil && len(raw) == ed25519.PublicKeySize
}

// parseList reads a list and checks that the server signed it. Of the current keys it takes those that
// signed it: a server has to prove that it has them.
func parseList(raw []byte, now time.Time) (*list, error) {
	canonical, err := canonicaljson.Canonicalize(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadList, err)
	}
	var body struct {
		Server     string                    `json:"server_name"`
		ValidUntil *int64                    `json:"valid_until_ts"`
		Keys       map[id.KeyID]publicKey    `json:"verify_keys"`
		Old        map[id.KeyID]publicKey    `json:"old_verify_keys"`
		Signatures map[string]map[string]any `json:"signatures"`
	}
	if err := json.Unmarshal(canonical, &body); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadList, err)
	}
	server, err := id.ParseServerName(body.Server)
	if err != nil || body.ValidUntil == nil || len(body.Keys)+len(body.Old) > maxKeys {
		return nil, fmt.Errorf("%w: no name, no end of validity, or more than %d keys", errBadList, maxKeys)
	}
	l := &list{ServerKeyList: store.ServerKeyList{Server: server, ValidUntil: *body.ValidUntil, Fetched: now.UnixMilli(), JSON: canonical}}
	until := min(*body.ValidUntil, now.Add(maxValidity).UnixMilli())
	for keyID, k := range body.Keys {
		public, ok := k.decode()
		if !ok || !usable(keyID) || sign.VerifyJSON(canonical, string(server), keyID, public) != nil {
			continue
		}
		l.add(keyID, public, until, false)
	}
	if len(l.keys) == 0 {
		return nil, fmt.Errorf("%w: %s has not signed it with one of its keys", errBadList, server)
	}
	for keyID, k := range body.Old {
		_, current := body.Keys[keyID]
		if public, ok := k.decode(); ok && usable(keyID) && !current {
			l.add(keyID, public, min(k.ExpiredTS, now.UnixMilli()), true)
		}
	}
	return l, nil
}

func usable(keyID id.KeyID) bool {
	return keyID.Algorithm() == "ed25519" && keyID.Name() != "" && len(keyID) <= id.MaxLength
}

func (l *list) add(keyID id.KeyID, public sign.PublicKey, until int64, expired bool) {
	l.keys = append(l.keys, store.ServerKey{
		Server: l.Server, KeyID: keyID, Public: public, ValidUntil: until, Expired: expired, Fetched: l.Fetched,
	})
}
