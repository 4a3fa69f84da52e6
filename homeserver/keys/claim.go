package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Claim gives out one key for each device that is asked for (Client-Server API, POST /keys/claim): a
// one-time key, else the fallback key. Remote servers are asked in parallel, within wait. Devices without
// a key are missing in the answer.
func (s *Service) Claim(ctx context.Context, wants Wants, wait time.Duration) (Claimed, Failures, error) {
	local, remote := Wants{}, map[id.ServerName]Wants{}
	for u, devices := range wants {
		of := local
		if !s.isLocal(u) {
			if of = remote[u.Server()]; of == nil {
				of = Wants{}
				remote[u.Server()] = of
			}
		}
		of[u] = devices
	}
	out, err := s.ClaimLocal(ctx, local)
	if err != nil || s.Remote == nil || len(remote) == 0 {
		return out, Failures{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(wait))
	defer cancel()
	return out, s.claimRemote(ctx, remote, out), nil
}

// claimRemote asks servers and adds what they give to out.
func (s *Service) claimRemote(ctx context.Context, remote map[id.ServerName]Wants, out Claimed) Failures {
	var wg sync.WaitGroup
	var mu sync.Mutex
	failures := Failures{}
	slots := make(chan struct{}, maxConcurrentServers)
	for server, wants := range remote {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			got, err := s.claimFrom(ctx, server, wants)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[server] = err
				return
			}
			maps.Copy(out, got)
		})
	}
	wg.Wait()
	return failures
}

// claimFrom asks one server and takes from its answer what was asked for.
func (s *Service) claimFrom(ctx context.Context, server id.ServerName, wants Wants) (out Claimed, err error) {
	defer guard(&err)
	got, err := s.Remote.ClaimKeys(ctx, server, wants)
	if err != nil {
		return nil, err
	}
	out = Claimed{}
	out.addWanted(wants, got)
	return out, nil
}

// guard turns a panic of the function that defers it into its error: what another server says must not end the process.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// addWanted takes the keys that were asked for, one for each device.
func (c Claimed) addWanted(wants Wants, got Claimed) {
	for user, devices := range wants {
		for device, algorithm := range devices {
			for name, key := range got[user][device] {
				if strings.HasPrefix(name, algorithm+":") && len(key) <= maxOneTimeKey {
					c.add(user, device, name, key)
					break
				}
			}
		}
	}
}

func (c Claimed) add(user id.UserID, device id.DeviceID, name string, key json.RawMessage) {
	if c[user] == nil {
		c[user] = map[id.DeviceID]map[string]json.RawMessage{}
	}
	c[user][device] = map[string]json.RawMessage{name: key}
}

// ClaimLocal is Claim for users of this server; others are left out.
func (s *Service) ClaimLocal(ctx context.Context, wants Wants) (Claimed, error) {
	var list []store.KeyWant
	for u, devices := range wants {
		for d, algorithm := range devices {
			if s.isLocal(u) && checkName(string(d), "a device ID") == nil && checkName(algorithm, "an algorithm") == nil {
				list = append(list, store.KeyWant{User: u, Device: d, Algorithm: algorithm})
			}
		}
	}
	var there []store.KeyWant
	for some := range slices.Chunk(list, lookStep) {
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			found, err := tx.OneTimeKeys.Available(some)
			there = append(there, found...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("claim keys: %w", err)
		}
	}
	out := Claimed{}
	for step := range slices.Chunk(there, claimStep) {
		if err := s.claimSome(ctx, step, out); err != nil {
			return nil, fmt.Errorf("claim keys: %w", err)
		}
	}
	return out, nil
}

// claimSome claims, in one update, keys of so few devices that others do not wait for it.
func (s *Service) claimSome(ctx context.Context, wants []store.KeyWant, out Claimed) error {
	var keys, fallback []store.OneTimeKey
	err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if keys, err = tx.OneTimeKeys.Claim(wants, maxClaimed); err != nil || len(keys) == len(wants) {
			return err
		}
		served := make(map[store.KeyWant]bool, len(keys))
		for _, k := range keys {
			served[store.KeyWant{User: k.User, Device: k.Device, Algorithm: k.Algorithm}] = true
		}
		rest := slices.DeleteFunc(slices.Clone(wants), func(w store.KeyWant) bool { return served[w] })
		fallback, err = tx.OneTimeKeys.ClaimFallback(rest)
		return err
	})
	if err == nil {
		out.addAll(keys)
		out.addAll(fallback)
	}
	return err
}

func (c Claimed) addAll(keys []store.OneTimeKey) {
	for _, k := range keys {
		c.add(k.User, k.Device, k.Algorithm+":"+k.ID, k.JSON)
	}
}
