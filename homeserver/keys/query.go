package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxConcurrentServers is how many servers one request asks at once.
	maxConcurrentServers = 64
	// maxSingleFetches is how many users of one server are asked for one by one, which tells where in
	// their server's sequence of updates the lists stand. More than that are asked for in one request.
	maxSingleFetches = 8
)

// Query collects the keys of users (Client-Server API, POST /keys/query): all devices of those with an empty
// list, else those named. Users whose keys are known always have an entry, which is empty if they have no device: clients
// else keep those that are gone. Remote servers are asked in parallel, within wait. Whoever has no place in the answer is not
// in it, which is a failure of the server that wraps ErrTooLarge: clients ask again for who is missing.
func (s *Service) Query(ctx context.Context, requester id.UserID, users map[id.UserID][]id.DeviceID, wait time.Duration) (*Published, Failures, error) {
	q := &query{s: s, requester: requester, users: users}
	if err := q.fromStore(ctx); err != nil {
		return nil, nil, fmt.Errorf("query keys: %w", err)
	}
	if len(q.remote) > 0 {
		ctx, cancel := context.WithTimeout(ctx, timeout(wait))
		defer cancel()
		q.fromServers(ctx)
	}
	q.addSignatures()
	return q.out, q.failures, nil
}

// QueryLocal collects the keys of users of this server for another one (Server-Server API,
// POST /user/keys/query). Others are left out, and who has no place in the answer.
func (s *Service) QueryLocal(ctx context.Context, users map[id.UserID][]id.DeviceID) (*Published, error) {
	users = maps.Clone(users)
	maps.DeleteFunc(users, func(u id.UserID, _ []id.DeviceID) bool { return !s.isLocal(u) })
	q := &query{s: s, users: users}
	if err := q.fromStore(ctx); err != nil {
		return nil, fmt.Errorf("query keys: %w", err)
	}
	return q.out, nil
}

func newPublished() *Published {
	return &Published{
		DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}, MasterKeys: map[id.UserID]json.RawMessage{},
		SelfSigningKeys: map[id.UserID]json.RawMessage{}, UserSigningKeys: map[id.UserID]json.RawMessage{},
	}
}

// query is one request on its way.
type query struct {
	s         *Service
	requester id.UserID
	users     map[id.UserID][]id.DeviceID

	signatures []store.UserSignature
	remote     map[id.ServerName]*missing
	before     map[id.UserID]stream.Position // when lists to be cached had changed last
	at         stream.Position               // of the snapshot

	mu       sync.Mutex // guards what follows once servers are asked
	out      *Published
	failures Failures
}

// missing are users of a server who have to be asked for there.
type missing struct {
	followed, others []id.UserID // followed: we hear of changes, so that the answer may be cached
}

// fromStore takes what is here, and notes what is not.
func (q *query) fromStore(ctx context.Context) error {
	var local, foreign []id.UserID
	for u, only := range q.users {
		slices.Sort(only)
		if q.s.isLocal(u) {
			local = append(local, u)
		} else {
			foreign = append(foreign, u)
		}
	}
	return q.s.Store.View(ctx, func(tx *store.Tx) error {
		q.out, q.failures = newPublished(), Failures{}
		here := local
		if len(foreign) > 0 && q.s.Remote != nil {
			cached, err := q.findMissing(tx, foreign)
			if err != nil {
				return err
			}
			here = append(here, cached...)
		}
		here, err := q.fitting(tx, here)
		if err != nil {
			return err
		}
		devices, err := tx.DeviceKeys.ByUsers(here)
		if err != nil {
			return err
		}
		signing, err := tx.CrossSigning.ByUsers(here)
		if err != nil {
			return err
		}
		q.add(devices, signing)
		if q.requester != "" {
			q.signatures, err = tx.CrossSigning.Signatures(q.requester, slices.Collect(maps.Keys(q.users)))
		}
		return err
	})
}

var errFull = fmt.Errorf("%w: ask for fewer users at a time", ErrTooLarge)

// fitting are those of some users whose keys have a place in the answer: who asks, and before others who have less, so that
// nobody is kept out by who has much.
func (q *query) fitting(tx *store.Tx, users []id.UserID) ([]id.UserID, error) {
	sizes, err := tx.DeviceKeys.Sizes(users)
	if err != nil {
		return nil, err
	}
	rank := func(u id.UserID) int {
		if u == q.requester {
			return -1
		}
		return sizes[u]
	}
	slices.SortFunc(users, func(a, b id.UserID) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	n := 0
	for _, u := range users { // where one has no place, those behind, who have more, have none either
		if q.enter(u, sizes[u]) {
			n++
		}
	}
	return users[:n], nil
}

// enter takes a place in the answer for a user's keys, if there is one. The first always has one.
func (q *query) enter(u id.UserID, size int) bool {
	if q.out.size > 0 && q.out.size+size > maxAnswer {
		q.failures[u.Server()] = errFull
		return false
	}
	q.out.size += size
	q.out.DeviceKeys[u] = map[id.DeviceID]json.RawMessage{}
	return true
}

// findMissing sorts remote users: it returns those who are cached.
func (q *query) findMissing(tx *store.Tx, foreign []id.UserID) (cached []id.UserID, err error) {
	known, err := tx.DeviceLists.Cached(foreign)
	if err != nil {
		return nil, err
	}
	var absent []id.UserID
	for _, u := range foreign {
		if known[u] {
			cached = append(cached, u)
		} else {
			absent = append(absent, u)
		}
	}
	if len(absent) == 0 {
		return cached, nil
	}
	followed, err := tx.DeviceLists.Followed(absent)
	if err != nil {
		return nil, err
	}
	q.remote = map[id.ServerName]*missing{}
	for _, u := range absent {
		m := q.remote[u.Server()]
		if m == nil {
			m = &missing{}
			q.remote[u.Server()] = m
		}
		if followed[u] {
			m.followed = append(m.followed, u)
		} else {
			m.others = append(m.others, u)
		}
	}
	if q.at, err = tx.Position(); err != nil {
		return nil, err
	}
	q.before, err = tx.DeviceLists.Positions(absent)
	return cached, err
}

// add puts keys into the answer, as far as they were asked for.
func (q *query) add(devices []store.IdentityKeys, signing []store.SigningKey) {
	for _, d := range devices {
		if only := q.users[d.User]; len(only) > 0 {
			if _, asked := slices.BinarySearch(only, d.Device); !asked {
				continue
			}
		}
		q.out.DeviceKeys[d.User][d.Device] = withDisplayName(d.JSON, d.DisplayName)
	}
	for _, k := range signing {
		switch {
		case k.Usage == master:
			q.out.MasterKeys[k.User] = k.JSON
		case k.Usage == selfSigning:
			q.out.SelfSigningKeys[k.User] = k.JSON
		case k.Usage == userSigning && k.User == q.requester:
			q.out.UserSigningKeys[k.User] = k.JSON
		}
	}
}

// withDisplayName adds what the server says of a device to its keys.
func withDisplayName(keys []byte, name string) []byte {
	unsigned := []byte("{}")
	if name != "" {
		unsigned = canonicaljson.With(unsigned, "device_display_name", canonicaljson.AppendString(nil, name))
	}
	return canonicaljson.With(keys, "unsigned", unsigned)
}

// fromServers asks the servers of all missing users.
func (q *query) fromServers(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxConcurrentServers)
	for server, m := range q.remote {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := q.fromServer(ctx, server, m); err != nil {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.failures[server] = err
			}
		})
	}
	wg.Wait()
}

func (q *query) fromServer(ctx context.Context, server id.ServerName, m *missing) error {
	bulk := m.others
	if len(m.followed) > maxSingleFetches {
		bulk = append(slices.Clip(bulk), m.followed...)
	}
	var wg sync.WaitGroup
	errs := make([]error, 1+len(m.followed))
	if len(bulk) > 0 {
		wg.Go(func() { errs[0] = q.bulk(ctx, server, bulk, m) })
	}
	if len(m.followed) <= maxSingleFetches {
		for i, u := range m.followed {
			wg.Go(func() { errs[1+i] = q.single(ctx, server, u) })
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// single fetches and caches the list of one user.
func (q *query) single(ctx context.Context, server id.ServerName, user id.UserID) (err error) {
	defer guard(&err)
	answer, err := q.s.Remote.UserDevices(ctx, server, user)
	if err != nil {
		return err
	}
	l := q.s.checkUserDevices(user, answer)
	q.take(l)
	q.keep(ctx, []remoteList{l})
	return nil
}

// keep caches lists. That it fails is no fault of the server that told them, and they are as good as they are.
func (q *query) keep(ctx context.Context, lists []remoteList) {
	if err := q.s.cache(ctx, lists, q.at, q.before); err != nil && ctx.Err() == nil && q.s.Log != nil {
		q.s.Log.Error("cannot keep lists of devices of another server", "err", err)
	}
}

// bulk fetches the keys of several users in one request and caches those that are followed.
func (q *query) bulk(ctx context.Context, server id.ServerName, users []id.UserID, m *missing) (err error) {
	defer guard(&err)
	ask := make(map[id.UserID][]id.DeviceID, len(users))
	for _, u := range users {
		ask[u] = q.users[u]
		if ask[u] == nil || slices.Contains(m.followed, u) {
			ask[u] = []id.DeviceID{} // the whole list, since it is going to be cached
		}
	}
	answer, err := q.s.Remote.QueryKeys(ctx, server, ask)
	if err != nil {
		return err
	}
	var followed []remoteList
	for _, u := range users {
		if _, told := answer.DeviceKeys[u]; !told { // the answer says nothing of the user, perhaps for want of place
			continue
		}
		l := q.s.checkPublished(u, answer)
		q.take(l)
		if len(m.followed) > maxSingleFetches && slices.Contains(m.followed, u) {
			followed = append(followed, l)
		}
	}
	q.keep(ctx, followed)
	return nil
}

func (q *query) take(l remoteList) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.enter(l.user, l.size) {
		q.add(l.devices, l.signing)
	}
}

// addSignatures shows a requester what they signed themselves of others.
func (q *query) addSignatures() {
	for _, g := range q.signatures {
		key := q.out.MasterKeys[g.Target]
		if key == nil || publicKey(key) != g.KeyID {
			continue
		}
		all := canonicaljson.Get(key, "signatures")
		q.out.MasterKeys[g.Target] = canonicaljson.With(key, "signatures", canonicaljson.With(all, string(g.Signer), g.Signatures))
	}
}
