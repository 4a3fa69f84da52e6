package keyring

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Result is a verified event, or why it is not.
type Result struct {
	Verified event.Verified
	Err      error
	// Lacks is a server with whose key the event says that it is signed, and that key could not be had: whether the event
	// is genuine is not known.
	Lacks id.ServerName
}

// VerifyEvents checks hashes and signatures of events. There is one result for each, in their order. The server that told
// of the events is asked for keys that can't be had elsewhere; see askWitness. It may be empty.
func (k *Keyring) VerifyEvents(ctx context.Context, witness id.ServerName, events []*event.Event) []Result {
	out := make([]Result, len(events))
	d := demand{}
	for _, e := range events {
		for _, server := range event.SignaturesNeeded(e) {
			for _, keyID := range e.SigningKeys(server) {
				if server != "" && usable(keyID) {
					d.add(server, keyID, validAt(e, e.OriginServerTS))
				}
			}
		}
	}
	f, err := k.find(ctx, d)
	if err == nil {
		err = k.askWitness(ctx, witness, f, d)
	}
	if err != nil {
		for i := range out {
			out[i].Err = err
		}
		return out
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	const share = 16 // events that are worth a goroutine
	for from := 0; from < len(events); from += share {
		group.Go(func() error {
			for i := from; i < min(from+share, len(events)); i++ {
				out[i] = k.verifyEvent(ctx, events[i], f)
			}
			return nil
		})
	}
	_ = group.Wait() // never an error
	return out
}

// verifyEvent is VerifyEvents for one of them, once keys are found. An event that makes us panic is not verified.
func (k *Keyring) verifyEvent(ctx context.Context, e *event.Event, f found) (r Result) {
	defer guard(&r.Err)
	r.Verified, r.Err = event.Verify(e, f.keyFunc(e))
	if !errors.Is(r.Err, sign.ErrNotSigned) {
		return r
	}
	if r.Lacks = lacking(e, f); r.Lacks == "" {
		return r
	}
	failed, _ := k.failing.GetIfPresent(r.Lacks)
	switch {
	case ctx.Err() != nil: // the key was not waited for
		r.Err = fmt.Errorf("fetch the signing keys of %s: %w", r.Lacks, ctx.Err())
	case failed.count > 0 && failed.count <= maxHopes:
		r.Err = fmt.Errorf("%w: %s: event %s", ErrUnreachable, r.Lacks, e.ID)
	}
	return r
}

// lacking is a server that must have signed an event and says so, with keys none of which is known; empty if there is none.
func lacking(e *event.Event, f found) id.ServerName {
	for _, server := range event.SignaturesNeeded(e) {
		claimed := slices.DeleteFunc(e.SigningKeys(server), func(keyID id.KeyID) bool { return !usable(keyID) })
		known := func(keyID id.KeyID) bool {
			_, ok := f.key(server, keyID, validAt(e, e.OriginServerTS))
			return ok
		}
		if len(claimed) > 0 && !slices.ContainsFunc(claimed, known) {
			return server
		}
	}
	return ""
}

// guard turns a panic of the function that defers it into its error.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// validAt is when a key has to be valid for an event of that origin_server_ts: in older room versions the
// time does not count (room version 5, "Signing key validity period").
func validAt(e *event.Event, at int64) int64 {
	if !e.Version.EnforceKeyValidity {
		return -1 << 62
	}
	return at
}

func (f found) keyFunc(e *event.Event) event.KeyFunc {
	return func(server id.ServerName, keyID id.KeyID, at int64) (ed25519.PublicKey, bool) {
		key, ok := f.key(server, keyID, validAt(e, at))
		return key.Public, ok
	}
}

// Meet makes sure that the key is at hand with which a request says that it is signed, before anything else is done about the
// request: anybody can name any server. If that server has to be asked for it, ask is called before; it may refuse, and what
// it returns is called once nothing is under way any more, which may be after Meet has returned. What it is handed gives the
// search up, with an error for the request. Error: ErrNoKey.
func (k *Keyring) Meet(ctx context.Context, server id.ServerName, keyID id.KeyID, ask func(lose func(error)) (done func(), err error)) error {
	d := demand{server: {keyID: time.Now().UnixMilli()}}
	f, left, err := k.near(ctx, d)
	if err != nil || len(left) == 0 {
		return err
	}
	noKey := fmt.Errorf("%w of %s with the ID %.100s", ErrNoKey, server, keyID)
	if k.futile(server, f) {
		return noKey
	}
	search, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	done, err := ask(lose)
	if err != nil {
		lose(nil)
		return err
	}
	asked := make(chan error, 1)
	go func() {
		defer lose(nil)
		defer done()
		ctx, cancel := context.WithTimeout(search, meetTimeout)
		defer cancel()
		err := k.fetchAll(ctx, f, left)
		if err == nil && len(f.unmet(left)) > 0 {
			err = noKey
		}
		if lost := context.Cause(search); lost != nil {
			err = lost
		}
		asked <- err
	}()
	select {
	case err := <-asked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// meetTimeout bounds the search for the key of a request, at its server and at notaries.
const meetTimeout = 20 * time.Second

// futile says whether a server, and all notaries about it, were asked for keys a moment ago.
func (k *Keyring) futile(server id.ServerName, f found) bool {
	failed, _ := k.failing.GetIfPresent(server)
	fresh := f[server] != nil && time.Since(time.UnixMilli(f[server].fetched)) < minAge
	if !fresh && !time.Now().Before(failed.until) {
		return false
	}
	for _, notary := range k.Notaries {
		if _, asked := k.asked.GetIfPresent(inquiry{notary, server}); !asked {
			return false
		}
	}
	return true
}

// VerifyRequest checks the signature of a request to this server. Errors are ErrNoKey and those of xmatrix.Verify.
func (k *Keyring) VerifyRequest(ctx context.Context, h xmatrix.Header, r xmatrix.Request) error {
	now := time.Now().UnixMilli()
	f, err := k.find(ctx, demand{h.Origin: {h.Key: now}})
	if err != nil {
		return err
	}
	key, ok := f.key(h.Origin, h.Key, now)
	if !ok || key.Expired {
		return fmt.Errorf("%w of %s with the ID %.100s", ErrNoKey, h.Origin, h.Key)
	}
	return xmatrix.Verify(h, r, k.Server, key.Public)
}
