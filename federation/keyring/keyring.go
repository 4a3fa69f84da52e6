package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

var (
	// ErrNoKey says that the key with which something is signed is not known, or was not valid then.
	ErrNoKey = errors.New("no valid signing key")
	// ErrUnreachable says that the key with which an event is signed could not be fetched, and that this may be about to
	// change. It is not said of a server any longer once its keys could not be had several times.
	ErrUnreachable = errors.New("the server's signing keys can't be fetched at the moment")
)

const (
	// maxServers bounds how many servers' keys are kept in memory.
	maxServers = 1 << 14
	// minAge is how old a server's list has to be before it is fetched again for a key that it lacks.
	minAge = 10 * time.Second
	// A server whose keys can't be had is asked again after minPause, and after twice as long each time.
	minPause = 10 * time.Second
	maxPause = 30 * time.Minute
	// maxHopes is after how many failures in a row a server's keys are no longer waited for: about five minutes.
	maxHopes = 5
)

// OldKey is a key with which this server no longer signs.
type OldKey struct {
	ID      id.KeyID
	Public  sign.PublicKey
	Expired time.Time
}

// Keyring holds all servers' signing keys. Fill the fields before use; all methods may be called concurrently.
type Keyring struct {
	Server  id.ServerName
	Key     sign.Key
	OldKeys []OldKey
	Store   *store.DB
	Client  *client.Client
	// Notaries are asked for keys that can't be had from their own server.
	Notaries []id.ServerName
	Log      *slog.Logger

	once    sync.Once
	known   *otter.Cache[id.ServerName, *serverKeys]
	failing *otter.Cache[id.ServerName, failure]
	asked   *otter.Cache[inquiry, struct{}]
	flights singleflight.Group
	notes   chan struct{} // filled by queries of others that make us fetch

	mu  sync.Mutex
	own ownList
}

// serverKeys are the known keys of one server. It never changes.
type serverKeys struct {
	keys    map[id.KeyID]store.ServerKey
	fetched int64 // milliseconds since 1970, of the newest
}

// failure is how a server's keys could not be had.
type failure struct {
	count int
	until time.Time
}

// demand is what is needed of servers' keys: for each the time, in milliseconds since 1970, at which it has
// to be valid. 0 is any time.
type demand map[id.ServerName]map[id.KeyID]int64

func (d demand) add(server id.ServerName, keyID id.KeyID, at int64) {
	keys := d[server]
	if keys == nil {
		keys = map[id.KeyID]int64{}
		d[server] = keys
	}
	keys[keyID] = max(keys[keyID], at)
}

func (k *Keyring) start() {
	k.once.Do(func() {
		k.notes = make(chan struct{}, parallelNotes)
		k.known = otter.Must(&otter.Options[id.ServerName, *serverKeys]{MaximumSize: maxServers})
		k.failing = otter.Must(&otter.Options[id.ServerName, failure]{MaximumSize: maxServers})
		k.asked = otter.Must(&otter.Options[inquiry, struct{}]{
			MaximumSize: maxServers, ExpiryCalculator: otter.ExpiryWriting[inquiry, struct{}](minPause),
		})
		keys := map[id.KeyID]store.ServerKey{}
		for _, old := range k.OldKeys {
			keys[old.ID] = store.ServerKey{Server: k.Server, KeyID: old.ID, Public: old.Public, ValidUntil: old.Expired.UnixMilli(), Expired: true}
		}
		keys[k.Key.ID] = store.ServerKey{Server: k.Server, KeyID: k.Key.ID, Public: k.Key.Public(), ValidUntil: 1<<62 - 1}
		k.own.keys = &serverKeys{keys: keys}
	})
}

// found are keys that a demand was after.
type found map[id.ServerName]*serverKeys

func (f found) key(server id.ServerName, keyID id.KeyID, at int64) (store.ServerKey, bool) {
	keys := f[server]
	if keys == nil {
		return store.ServerKey{}, false
	}
	key, ok := keys.keys[keyID]
	return key, ok && key.ValidUntil >= at
}

// unmet is the part of a demand that is not found.
func (f found) unmet(d demand) demand {
	left := demand{}
	for server, keys := range d {
		for keyID, at := range keys {
			if _, ok := f.key(server, keyID, at); !ok {
				left.add(server, keyID, at)
			}
		}
	}
	return left
}

// find obtains keys from the nearest place that has them. What can't be had is left out.
func (k *Keyring) find(ctx context.Context, d demand) (found, error) {
	f, left, err := k.near(ctx, d)
	if err != nil || len(left) == 0 {
		return f, err
	}
	return f, k.fetchAll(ctx, f, left)
}

// near obtains keys from memory and the database, and tells what is left of a demand.
func (k *Keyring) near(ctx context.Context, d demand) (found, demand, error) {
	k.start()
	f := found{}
	for server := range d {
		if server == k.Server {
			f[server] = k.own.keys
		} else if keys, ok := k.known.GetIfPresent(server); ok {
			f[server] = keys
		}
	}
	left := f.unmet(d)
	delete(left, k.Server)
	if len(left) == 0 {
		return f, nil, nil
	}
	if err := k.load(ctx, f, left); err != nil {
		return nil, nil, err
	}
	return f, f.unmet(left), nil
}

// load reads what the database has for a demand.
func (k *Keyring) load(ctx context.Context, f found, d demand) error {
	var servers []id.ServerName
	for server := range d {
		if f[server] == nil { // what is in memory is at least as new
			servers = append(servers, server)
		}
	}
	if len(servers) == 0 {
		return nil
	}
	var rows []store.ServerKey
	err := k.Store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.ServerKeys.Of(servers...)
		return err
	})
	if err != nil {
		return fmt.Errorf("read signing keys: %w", err)
	}
	fresh := map[id.ServerName]*serverKeys{}
	for _, row := range rows {
		keys := fresh[row.Server]
		if keys == nil {
			keys = &serverKeys{keys: map[id.KeyID]store.ServerKey{}}
			fresh[row.Server] = keys
		}
		keys.keys[row.KeyID] = row
		keys.fetched = max(keys.fetched, row.Fetched)
	}
	for server, keys := range fresh {
		f[server] = keys
		k.known.SetIfAbsent(server, keys)
	}
	return nil
}

// keep stores a list that was fetched and adds it to what is known of its server.
func (k *Keyring) keep(ctx context.Context, l *list) (*serverKeys, error) {
	keys := &serverKeys{keys: map[id.KeyID]store.ServerKey{}, fetched: l.Fetched}
	err := k.Store.Update(ctx, func(tx *store.Tx) error {
		clear(keys.keys)
		before, err := tx.ServerKeys.Of(l.Server)
		if err != nil {
			return err
		}
		for _, key := range before {
			keys.keys[key.KeyID] = key
		}
		lists, err := tx.ServerKeys.Lists(l.Server)
		if err != nil {
			return err
		}
		older := len(lists) > 0 && l.ValidUntil < lists[0].ValidUntil
		retires := false
		for _, key := range l.keys {
			known, ok := keys.keys[key.KeyID]
			retires = retires || ok && key.Expired && !known.Expired
			if ok {
				key = newest(known, key, older)
			}
			keys.keys[key.KeyID] = key
			if err := tx.ServerKeys.Put(key); err != nil {
				return err
			}
		}
		if older && !retires {
			return nil
		}
		return tx.ServerKeys.PutList(l.ServerKeyList)
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errOwn, l.Server, err)
	}
	k.known.Set(l.Server, keys)
	return keys, nil
}

// newest is what holds of a key that is known and listed again, perhaps in a list that is older: a notary gives what it has.
// What a list of ours promised holds on, unless the server has retired the key since.
func newest(known, listed store.ServerKey, older bool) store.ServerKey {
	switch {
	case !bytes.Equal(known.Public, listed.Public) || known.Expired && !listed.Expired:
		if older {
			return known
		}
	case !listed.Expired && listed.ValidUntil < known.ValidUntil:
		listed.ValidUntil = known.ValidUntil
	}
	return listed
}
