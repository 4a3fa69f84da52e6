package keyring

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// validity is how long others may rely on our keys without asking again.
	validity = 24 * time.Hour
	// renewal is how often our list is signed anew.
	renewal = time.Hour
	// MaxNotarized bounds how many servers a notary query may ask about.
	MaxNotarized = 100
	// Anybody may ask, so little is fetched on their behalf: that many servers' lists for one query, for that many
	// queries at once. Everyone else is told what is known already.
	maxForOthers  = 10
	parallelNotes = 4
)

// ownList is the signed list of our keys.
type ownList struct {
	keys *serverKeys
	json json.RawMessage
	made time.Time
}

// Own is this server's signed list of keys.
func (k *Keyring) Own() (json.RawMessage, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.own.json != nil && now.Sub(k.own.made) < renewal {
		return k.own.json, nil
	}
	type entry struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts,omitempty"`
	}
	old := map[id.KeyID]entry{}
	for _, o := range k.OldKeys {
		old[o.ID] = entry{sign.Base64(o.Public), o.Expired.UnixMilli()}
	}
	raw, err := json.Marshal(map[string]any{
		"server_name":     k.Server,
		"valid_until_ts":  now.Add(validity).UnixMilli(),
		"verify_keys":     map[id.KeyID]entry{k.Key.ID: {Key: sign.Base64(k.Key.Public())}},
		"old_verify_keys": old,
	})
	if err != nil {
		return nil, fmt.Errorf("list our signing keys: %w", err)
	}
	signed, err := sign.JSON(raw, string(k.Server), k.Key)
	if err != nil {
		return nil, fmt.Errorf("list our signing keys: %w", err)
	}
	k.own.json, k.own.made = signed, now
	return signed, nil
}

// Notarize answers a notary query with other servers' lists of keys, each signed by us as well. wanted
// holds for each server the keys asked for, with the time in milliseconds since 1970 until when they should
// be valid; no keys ask for all. Servers whose keys can't be had are left out.
func (k *Keyring) Notarize(ctx context.Context, wanted map[id.ServerName]map[id.KeyID]int64) ([]json.RawMessage, error) {
	k.start()
	out := []json.RawMessage{}
	var servers []id.ServerName
	for server := range wanted {
		if server == k.Server {
			own, err := k.Own()
			if err != nil {
				return nil, err
			}
			out = append(out, own)
		} else if len(servers) < MaxNotarized {
			servers = append(servers, server)
		}
	}
	lists, err := k.lists(ctx, servers)
	if err != nil {
		return nil, err
	}
	f, left := found{}, []id.ServerName{}
	for _, server := range servers {
		if l, ok := lists[server]; !ok || !sufficient(l, wanted[server]) {
			left = append(left, server)
		}
		if keys, ok := k.known.GetIfPresent(server); ok {
			f[server] = keys
		}
	}
	fetched := false
	if len(left) > 0 {
		if fetched, err = k.fetchForOthers(ctx, f, left[:min(len(left), maxForOthers)]); err != nil {
			return nil, err
		}
	}
	if fetched {
		if lists, err = k.lists(ctx, servers); err != nil {
			return nil, err
		}
	}
	for _, l := range lists {
		signed, err := sign.JSON(l.JSON, string(k.Server), k.Key)
		if err != nil {
			return nil, fmt.Errorf("notarize the signing keys of %s: %w", l.Server, err)
		}
		out = append(out, signed)
	}
	return out, nil
}

// fetchForOthers is fetchEach for whoever asks; false if it is done for enough others at the moment.
func (k *Keyring) fetchForOthers(ctx context.Context, f found, servers []id.ServerName) (bool, error) {
	select {
	case k.notes <- struct{}{}:
		defer func() { <-k.notes }()
		return true, k.fetchEach(ctx, f, slices.Values(servers))
	default:
		return false, nil
	}
}

func (k *Keyring) lists(ctx context.Context, servers []id.ServerName) (map[id.ServerName]store.ServerKeyList, error) {
	out := map[id.ServerName]store.ServerKeyList{}
	err := k.Store.View(ctx, func(tx *store.Tx) error {
		lists, err := tx.ServerKeys.Lists(servers...)
		for _, l := range lists {
			out[l.Server] = l
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read lists of signing keys: %w", err)
	}
	return out, nil
}

// sufficient says whether a list has the keys asked for, for as long as asked for; by default it has to be valid now.
func sufficient(l store.ServerKeyList, keys map[id.KeyID]int64) bool {
	now := time.Now().UnixMilli()
	if len(keys) == 0 {
		return l.ValidUntil >= now
	}
	parsed, err := parseList(l.JSON, time.UnixMilli(l.Fetched))
	if err != nil {
		return false
	}
	known := map[id.KeyID]store.ServerKey{}
	for _, key := range parsed.keys {
		known[key.KeyID] = key
	}
	for keyID, at := range keys {
		if at == 0 {
			at = now
		}
		if key, ok := known[keyID]; !ok || !key.Expired && l.ValidUntil < at {
			return false
		}
	}
	return true
}
