package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

const (
	// fetchTimeout bounds one request for keys.
	fetchTimeout = 15 * time.Second
	// parallel bounds how many servers are asked for their keys at once by one caller.
	parallel = 32
	// many is how many servers have to be asked until it is quicker to ask the notaries first.
	many = 16
	// batch is how many servers a notary is asked about at once.
	batch = 100
	// maxWitnessed is how many servers a witness is asked about for one caller.
	maxWitnessed = 10 * batch
)

var (
	errPaused = errors.New("its keys could not be had a moment ago")
	// errOwn is wrapped by faults of our own database, which say nothing of the server whose keys were to be stored.
	errOwn = errors.New("signing keys cannot be stored")
)

// fetchAll asks the servers of a demand for their keys, and notaries for those that do not answer. Errors are faults of
// ours: nothing is known then of what could not be had.
func (k *Keyring) fetchAll(ctx context.Context, f found, left demand) error {
	if len(left) > many {
		if err := k.askNotaries(ctx, f, left); err != nil {
			return err
		}
		left = f.unmet(left)
	}
	if err := k.fetchEach(ctx, f, maps.Keys(left)); err != nil {
		return err
	}
	return k.askNotaries(ctx, f, f.unmet(left))
}

// fetchEach asks servers for their own keys, unless that was done a moment ago. Errors are faults of ours.
func (k *Keyring) fetchEach(ctx context.Context, f found, servers iter.Seq[id.ServerName]) error {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(parallel)
	for server := range servers {
		mu.Lock()
		have := f[server]
		mu.Unlock()
		if have != nil && time.Since(time.UnixMilli(have.fetched)) < minAge {
			continue
		}
		group.Go(func() error {
			keys, err := k.fetch(ctx, server)
			if errors.Is(err, errOwn) {
				return err
			}
			if err != nil {
				k.Log.Debug("cannot fetch signing keys", "server", server, "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			f[server] = keys
			return nil
		})
	}
	return group.Wait()
}

// fetch asks a server for its own keys. Those who ask at the same time share one request, which goes on
// if one of them gives up.
func (k *Keyring) fetch(ctx context.Context, server id.ServerName) (*serverKeys, error) {
	failed, _ := k.failing.GetIfPresent(server)
	if time.Now().Before(failed.until) {
		return nil, errPaused
	}
	shared := k.flights.DoChan(string(server), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		keys, err := k.fetchNow(ctx, server)
		if errors.Is(err, errOwn) {
			return nil, err
		}
		if err != nil {
			pause := min(maxPause, minPause<<min(failed.count, 10))
			k.failing.Set(server, failure{failed.count + 1, time.Now().Add(pause)})
			return nil, err
		}
		k.failing.Invalidate(server)
		return keys, nil
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("fetching the signing keys of %s: %w", server, ctx.Err())
	case result := <-shared:
		keys, _ := result.Val.(*serverKeys)
		return keys, result.Err
	}
}

func (k *Keyring) fetchNow(ctx context.Context, server id.ServerName) (keys *serverKeys, err error) {
	defer guard(&err)
	raw, err := k.Client.ServerKeys(ctx, server)
	if err != nil {
		return nil, err
	}
	l, err := parseList(raw, time.Now())
	if err != nil {
		return nil, fmt.Errorf("the signing keys of %s: %w", server, err)
	}
	if l.Server != server {
		return nil, fmt.Errorf("%w: it is that of %s, asked was %s", errBadList, l.Server, server)
	}
	return k.keep(ctx, l)
}

// askNotaries asks one notary after another for what is left of a demand. Errors are faults of ours.
func (k *Keyring) askNotaries(ctx context.Context, f found, left demand) (own error) {
	for _, notary := range k.Notaries {
		if notary == k.Server || len(left) == 0 {
			continue
		}
		query := map[id.ServerName]map[id.KeyID]client.KeyCriteria{}
		ask := func() {
			if err := k.askNotary(ctx, notary, query, f); errors.Is(err, errOwn) {
				own = err
			} else if err != nil {
				k.Log.Warn("a notary did not answer for signing keys", "notary", notary, "err", err)
			}
			clear(query)
		}
		for server, keys := range left {
			if asked := (inquiry{notary, server}); k.recent(asked) {
				continue
			}
			if query[server] = criteria(keys); len(query) == batch {
				ask()
			}
		}
		if len(query) > 0 {
			ask()
		}
		left = f.unmet(left)
	}
	return own
}

// inquiry is a question that a notary was asked lately.
type inquiry struct{ notary, server id.ServerName }

// recent says whether a notary was asked about a server a moment ago, and remembers that it is now.
func (k *Keyring) recent(i inquiry) bool {
	_, fresh := k.asked.SetIfAbsent(i, struct{}{})
	return !fresh
}

// askNotary takes from a notary's answer the lists that it was asked for and that both it and their server signed.
func (k *Keyring) askNotary(ctx context.Context, notary id.ServerName, query map[id.ServerName]map[id.KeyID]client.KeyCriteria, f found) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	answer, err := k.Client.NotaryQuery(ctx, notary, query)
	if err != nil {
		return err
	}
	own, ok := k.known.GetIfPresent(notary)
	if !ok || own.current(time.Now().UnixMilli()) == 0 {
		if own, err = k.fetch(ctx, notary); err != nil {
			return fmt.Errorf("the notary's own keys: %w", err)
		}
	}
	return k.take(ctx, notary, answer, query, f, func(_ id.ServerName, raw []byte) bool { return own.signed(raw, notary, time.Now().UnixMilli()) })
}

// askWitness asks the server that told of events for keys that neither their own server nor a notary has given. It is no
// notary that anybody chose to trust, and a list that signs itself proves nothing: anybody can make one for any name. So
// it is asked only about servers of which keys are known, and a list counts if it is signed with one of those that its server
// has not retired: the witness shows nothing but that the server still used that key later. Errors are faults of ours.
func (k *Keyring) askWitness(ctx context.Context, witness id.ServerName, f found, d demand) error {
	if witness == "" || witness == k.Server {
		return nil
	}
	var queries []map[id.ServerName]map[id.KeyID]client.KeyCriteria
	asked := 0
	for server, keys := range f.unmet(d) {
		if f[server] == nil || server == k.Server || asked == maxWitnessed || k.recent(inquiry{witness, server}) {
			continue
		}
		if asked%batch == 0 {
			queries = append(queries, map[id.ServerName]map[id.KeyID]client.KeyCriteria{})
		}
		asked++
		queries[len(queries)-1][server] = criteria(keys)
	}
	for _, query := range queries {
		err := k.askOneWitness(ctx, witness, query, f)
		if errors.Is(err, errOwn) {
			return err
		}
		if err != nil {
			k.Log.Debug("who told of events has no signing keys for them", "server", witness, "err", err)
			return nil
		}
	}
	return nil
}

func (k *Keyring) askOneWitness(ctx context.Context, witness id.ServerName, query map[id.ServerName]map[id.KeyID]client.KeyCriteria, f found) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	answer, err := k.Client.NotaryQuery(ctx, witness, query)
	if err != nil {
		return err
	}
	return k.take(ctx, witness, answer, query, f, func(server id.ServerName, raw []byte) bool { return f[server].signed(raw, server, 0) })
}

// criteria are those of a query for keys, each with the time at which it has to be valid.
func criteria(keys map[id.KeyID]int64) map[id.KeyID]client.KeyCriteria {
	out := map[id.KeyID]client.KeyCriteria{}
	for keyID, at := range keys {
		out[keyID] = client.KeyCriteria{MinimumValidUntil: at}
	}
	return out
}

// take keeps from the answer to a query the lists that it asked for, that their server signed, and that are vouched for.
func (k *Keyring) take(ctx context.Context, from id.ServerName, answer []json.RawMessage, query map[id.ServerName]map[id.KeyID]client.KeyCriteria, f found, vouched func(of id.ServerName, list []byte) bool) error {
	for _, raw := range answer[:min(len(answer), batch)] {
		l, err := parseList(raw, time.Now())
		if err != nil {
			k.Log.Debug("a server gave bad keys of others", "server", from, "err", err)
			continue
		}
		if _, asked := query[l.Server]; !asked {
			continue
		}
		if !vouched(l.Server, raw) {
			k.Log.Warn("a server gave keys of another that nobody vouches for", "server", from, "of", l.Server)
			continue
		}
		keys, err := k.keep(ctx, l)
		if err != nil {
			return err
		}
		f[l.Server] = keys
	}
	return nil
}

// current counts the keys that are valid at a time.
func (s *serverKeys) current(at int64) (n int) {
	for _, key := range s.keys {
		if !key.Expired && key.ValidUntil >= at {
			n++
		}
	}
	return n
}

// signed says whether an object is signed with a key of the server that is not retired and valid at a time.
func (s *serverKeys) signed(raw []byte, server id.ServerName, at int64) bool {
	for _, keyID := range sign.KeyIDs(raw, string(server)) {
		key, ok := s.keys[keyID]
		if ok && !key.Expired && key.ValidUntil >= at && sign.VerifyJSON(raw, string(server), keyID, key.Public) == nil {
			return true
		}
	}
	return false
}
