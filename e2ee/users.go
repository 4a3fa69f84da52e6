package e2ee

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// MaxDevices is how many devices of one user are kept; more can't be for any honest purpose.
	MaxDevices = 1000
	// queryRetry is how long users of a server that could not be reached are left alone.
	queryRetry = time.Minute
)

// ErrKeyChanged says that a device's keys are not the ones it had before. Devices never change their
// keys; a server that exchanges them is attacking.
var ErrKeyChanged = errors.New("the device's keys are not the ones it had before")

// ErrKeyTaken says that a device claims a key of another device of the same user. Its messages could not be told
// from the other's.
var ErrKeyTaken = errors.New("the device claims a key of another device")

// userRecord is what the machine knows of a user. Dirty counts the changes that were announced, Applied is
// the count as it was when the last query was made whose answer is in here: if it is less, the list is
// outdated.
type userRecord struct {
	ID      id.UserID                     `json:"id"`
	Tracked bool                          `json:"tracked"`
	Dirty   int64                         `json:"dirty"`
	Applied int64                         `json:"applied"`
	RetryAt int64                         `json:"retry_at,omitempty"`
	Devices map[id.DeviceID]*deviceRecord `json:"devices,omitempty"`

	Identity *identity.User    `json:"identity,omitempty"` // as the server has it now
	Pinned   ed25519.PublicKey `json:"pinned,omitempty"`   // the master key first seen, or accepted since
	Verified bool              `json:"verified,omitempty"` // Pinned was verified by the user
}

// deviceRecord is what the machine knows of a device. Devices that are gone stay, for the sake of their
// messages.
type deviceRecord struct {
	identity.Device
	Trust LocalTrust `json:"trust,omitempty"`
	Gone  bool       `json:"gone,omitempty"`
}

func (u *userRecord) outdated() bool { return u.Tracked && u.Applied < u.Dirty }

// changed says that the user's master key is not the one that was pinned.
func (u *userRecord) changed() bool {
	return u.Identity != nil && !bytes.Equal(u.Identity.Master.Key, u.Pinned)
}

func loadUser(r reader, user id.UserID) (*userRecord, error) {
	u, err := load[userRecord](r, prefixUser+string(user))
	if u == nil && err == nil {
		u = &userRecord{ID: user}
	}
	if u != nil && u.Devices == nil {
		u.Devices = map[id.DeviceID]*deviceRecord{}
	}
	return u, err
}

func (t *txn) saveUser(u *userRecord) error { return t.save(prefixUser+string(u.ID), u) }

// track makes sure that a user's devices are followed.
func (t *txn) track(user id.UserID) error {
	u, err := loadUser(t, user)
	if err != nil || u.Tracked {
		return err
	}
	u.Tracked = true
	u.Dirty++
	return t.saveUser(u)
}

// deviceLists notes what a sync says of others' devices.
func (t *txn) deviceLists(changed, left []id.UserID) error {
	for _, user := range changed {
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		if !u.Tracked {
			continue // it is queried when it is needed for the first time
		}
		u.Dirty++
		u.RetryAt = 0
		if err := t.saveUser(u); err != nil {
			return err
		}
	}
	for _, user := range left {
		if user == t.m.user || slices.Contains(changed, user) {
			continue
		}
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		if u.Tracked {
			u.Tracked = false
			if err := t.saveUser(u); err != nil {
				return err
			}
		}
	}
	return nil
}

// KeyQuery is a request to /keys/query. Its marshalled form is the body.
type KeyQuery struct{ users map[id.UserID]int64 }

// Users are the users that are asked for.
func (q *KeyQuery) Users() []id.UserID { return slices.Sorted(maps.Keys(q.users)) }

// MarshalJSON is the body of POST /keys/query.
func (q *KeyQuery) MarshalJSON() ([]byte, error) {
	users := map[id.UserID][]string{}
	for user := range q.users {
		users[user] = []string{}
	}
	return json.Marshal(map[string]any{"device_keys": users, "timeout": 10_000})
}

// UsersToQuery begins to follow the devices of users, if they are not followed yet, and returns the request
// for all whose lists are outdated; nil if there are none.
func (m *Machine) UsersToQuery(users ...id.UserID) (*KeyQuery, error) {
	q := &KeyQuery{users: map[id.UserID]int64{}}
	err := m.update(func(t *txn) error {
		for _, user := range users {
			if err := t.track(user); err != nil {
				return err
			}
		}
		for _, key := range t.Keys(prefixUser) {
			u, err := load[userRecord](t, key)
			if err != nil {
				return err
			}
			if u.outdated() && u.RetryAt <= t.millis() {
				q.users[u.ID] = u.Dirty
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("finding outdated device lists: %w", err)
	}
	if len(q.users) == 0 {
		return nil, nil
	}
	return q, nil
}

// KeyChanges is what an answer to /keys/query brought.
type KeyChanges struct {
	NewDevices        []DeviceRef
	GoneDevices       []DeviceRef
	ChangedIdentities []id.UserID // whose master key is another one than was pinned
	Problems          []error     // keys that were refused; the old ones stay
}

// DeviceRef names a device.
type DeviceRef struct {
	User   id.UserID
	Device id.DeviceID
}

type keysAnswer struct {
	Devices     each[id.UserID, map[id.DeviceID]json.RawMessage] `json:"device_keys"`
	Master      map[id.UserID]json.RawMessage                    `json:"master_keys"`
	SelfSigning map[id.UserID]json.RawMessage                    `json:"self_signing_keys"`
	UserSigning map[id.UserID]json.RawMessage                    `json:"user_signing_keys"`
	Failures    map[id.ServerName]json.RawMessage                `json:"failures"`
}

// each is an object of which only the members are kept that can be read. Servers pass on what other servers say of
// their users, and what one of them says of one user must not keep us from all others.
type each[K ~string, V any] map[K]V

// UnmarshalJSON leaves out what it can't read.
func (e *each[K, V]) UnmarshalJSON(raw []byte) error {
	var members map[K]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return fmt.Errorf("reading an object: %w", err)
	}
	*e = each[K, V]{}
	for key, member := range members {
		var value V
		if json.Unmarshal(member, &value) == nil {
			(*e)[key] = value
		}
	}
	return nil
}

// ReceiveKeysQuery takes the answer to a request. If the request failed as a whole, it is simply made
// again. Answers may come in any order: one that is older than what is known is ignored.
func (m *Machine) ReceiveKeysQuery(q *KeyQuery, answer []byte) (*KeyChanges, error) {
	var a keysAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("reading the answer to a key query: %w", err)
	}
	changes := &KeyChanges{}
	if err := m.update(func(t *txn) error { return t.applyQuery(q, &a, changes) }); err != nil {
		return nil, fmt.Errorf("storing devices: %w", err)
	}
	return changes, nil
}

func (t *txn) applyQuery(q *KeyQuery, a *keysAnswer, changes *KeyChanges) error {
	for _, user := range q.Users() {
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		if q.users[user] <= u.Applied {
			continue
		}
		devices, answered := a.Devices[user]
		if _, failed := a.Failures[user.Server()]; failed && !answered {
			u.RetryAt = t.now.Add(queryRetry).UnixMilli()
		} else {
			u.applyDevices(devices, t.m, changes)
			u.applyIdentity(a, t, changes)
			u.Applied, u.RetryAt = q.users[user], 0
		}
		if err := t.saveUser(u); err != nil {
			return err
		}
	}
	if err := t.refreshVerified(); err != nil {
		return err
	}
	return errors.Join(t.serveRequests(), t.askSecrets())
}

func (u *userRecord) applyDevices(devices map[id.DeviceID]json.RawMessage, m *Machine, changes *KeyChanges) {
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		ref := DeviceRef{u.ID, device}
		d, err := identity.ParseDevice(devices[device], u.ID, device)
		old := u.Devices[device]
		switch {
		case err != nil:
		case old != nil && (!old.Signing.Equal(d.Signing) || old.Identity != d.Identity),
			u.ID == m.user && device == m.device && (!d.Signing.Equal(m.signing) || d.Identity != m.identity):
			// Even if it was gone in between: to leave a device out once must not be a way to exchange it.
			err = ErrKeyChanged
		case old == nil && u.has(d):
			err = ErrKeyTaken
		case old == nil && !u.makeRoom():
			err = fmt.Errorf("more than %d devices", MaxDevices)
		}
		if err != nil {
			changes.Problems = append(changes.Problems, fmt.Errorf("device %s of %s: %w", device, u.ID, err))
			continue
		}
		if old != nil {
			old.Device, old.Gone = *d, false
			continue
		}
		u.Devices[device] = &deviceRecord{Device: *d}
		changes.NewDevices = append(changes.NewDevices, ref)
	}
	for device, old := range u.Devices {
		if _, there := devices[device]; !there && !old.Gone {
			old.Gone = true
			changes.GoneDevices = append(changes.GoneDevices, DeviceRef{u.ID, device})
		}
	}
}

// has says whether a device has a key that another one of the user has already.
func (u *userRecord) has(d *identity.Device) bool {
	for _, other := range u.Devices {
		if other.Identity == d.Identity || other.Signing.Equal(d.Signing) {
			return true
		}
	}
	return false
}

// makeRoom makes sure that one more device can be kept. For that it forgets devices that are gone and that the user
// decided nothing about.
func (u *userRecord) makeRoom() bool {
	if len(u.Devices) < MaxDevices {
		return true
	}
	maps.DeleteFunc(u.Devices, func(_ id.DeviceID, d *deviceRecord) bool { return d.Gone && d.Trust == Undecided })
	return len(u.Devices) < MaxDevices
}

// applyIdentity takes a user's cross-signing keys. A server that leaves them out, or sends some that do
// not hold together, changes nothing: who had an identity keeps it.
func (u *userRecord) applyIdentity(a *keysAnswer, t *txn, changes *KeyChanges) {
	if len(a.Master[u.ID]) == 0 {
		return
	}
	var userSigning []byte
	if u.ID == t.m.user {
		userSigning = a.UserSigning[u.ID]
	}
	parsed, err := identity.ParseUser(u.ID, a.Master[u.ID], a.SelfSigning[u.ID], userSigning)
	if err != nil {
		changes.Problems = append(changes.Problems, fmt.Errorf("identity of %s: %w", u.ID, err))
		return
	}
	was := u.changed()
	u.Identity = parsed
	if u.Pinned == nil {
		u.Pinned = parsed.Master.Key
	}
	if u.changed() && !was {
		changes.ChangedIdentities = append(changes.ChangedIdentities, u.ID)
	}
}

// Devices are a user's devices as far as they are known, with what to think of each.
func (m *Machine) Devices(user id.UserID) ([]DeviceInfo, error) {
	u, err := loadUser(m.vault, user)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	var list []DeviceInfo
	for _, device := range slices.Sorted(maps.Keys(u.Devices)) {
		if d := u.Devices[device]; !d.Gone {
			list = append(list, DeviceInfo{
				User: user, Device: device, Name: d.Name, Fingerprint: d.Fingerprint(),
				Local: d.Trust, Trust: m.deviceTrust(u, d),
			})
		}
	}
	return list, nil
}

// DeviceInfo describes a device to a person.
type DeviceInfo struct {
	User        id.UserID
	Device      id.DeviceID
	Name        string // chosen by its owner: not to be believed
	Fingerprint string
	Local       LocalTrust
	Trust       Trust
}
