package e2ee

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/olm"
)

const (
	// targetKeys is how many one-time keys the server should have; below half of it, more are made.
	targetKeys = 50
	// keepFallback is how long the fallback key before the current one stays usable.
	keepFallback = time.Hour
)

// KeysUpload is the body of POST /keys/upload.
type KeysUpload struct {
	DeviceKeys   json.RawMessage            `json:"device_keys,omitempty"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys,omitempty"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys,omitempty"`
}

// KeysUpload makes the keys that the server should get; nil if it has all it needs. The private halves are
// stored before it returns. It gives the same keys again until MarkKeysUploaded.
func (m *Machine) KeysUpload() (*KeysUpload, error) {
	var body KeysUpload
	err := m.update(func(t *txn) error {
		a, err := t.account()
		if err != nil {
			return err
		}
		a.replenish(t)
		if body, err = a.upload(); err != nil {
			return err
		}
		return t.save(keyAccount, a)
	})
	if err != nil {
		return nil, fmt.Errorf("preparing keys for upload: %w", err)
	}
	if body.DeviceKeys == nil && body.OneTimeKeys == nil && body.FallbackKeys == nil {
		return nil, nil
	}
	return &body, nil
}

// bounded is a server's count of keys as far as it makes sense: a negative one must not have us make keys without end.
func bounded(count int) int { return min(max(count, 0), olm.MaxOneTimeKeys) }

// replenish makes the one-time and fallback keys that are missing.
func (a *accountRecord) replenish(t *txn) {
	oneTime, fallback := a.Account.Unpublished()
	if have := a.Count + len(oneTime); a.Count < targetKeys/2 && have < targetKeys {
		a.Account.GenerateOneTimeKeys(targetKeys - have)
	}
	if (a.Fallback || !a.Account.HasFallback()) && fallback == nil {
		a.Account.GenerateFallback()
		a.Fallback, a.Rotated = false, t.millis()
	}
}

func (a *accountRecord) upload() (body KeysUpload, err error) {
	if !a.Uploaded {
		if body.DeviceKeys, err = identity.NewDevice(a.User, a.Device, a.Account); err != nil {
			return body, err
		}
	}
	oneTime, fallback := a.Account.Unpublished()
	for _, key := range oneTime {
		if body.OneTimeKeys == nil {
			body.OneTimeKeys = map[string]json.RawMessage{}
		}
		if body.OneTimeKeys[oneTimeAlgorithm+":"+key.ID], err = identity.NewOneTimeKey(key.Key, false, a.signer()); err != nil {
			return body, err
		}
	}
	if fallback != nil {
		signed, err := identity.NewOneTimeKey(fallback.Key, true, a.signer())
		if err != nil {
			return body, err
		}
		body.FallbackKeys = map[string]json.RawMessage{oneTimeAlgorithm + ":" + fallback.ID: signed}
	}
	return body, nil
}

// MarkKeysUploaded notes that the server took an upload; counts is the property one_time_key_counts of
// its answer.
func (m *Machine) MarkKeysUploaded(body *KeysUpload, counts map[string]int) error {
	err := m.update(func(t *txn) error {
		a, err := t.account()
		if err != nil {
			return err
		}
		var ids []string
		for _, keys := range []map[string]json.RawMessage{body.OneTimeKeys, body.FallbackKeys} {
			for name := range keys {
				ids = append(ids, name[len(oneTimeAlgorithm)+1:])
			}
		}
		a.Account.MarkPublished(ids)
		a.Uploaded = a.Uploaded || body.DeviceKeys != nil
		a.Count = bounded(counts[oneTimeAlgorithm])
		// It has keys, and its syncs said nothing of them: then what they leave out means nothing.
		a.Omits = a.Omits || a.Count > len(body.OneTimeKeys)+targetKeys/2
		return t.save(keyAccount, a)
	})
	if err != nil {
		return fmt.Errorf("noting the upload of keys: %w", err)
	}
	return nil
}

// syncKeys notes what a sync says of the device's own keys on the server.
func (t *txn) syncKeys(counts map[string]int, unusedFallback []string) error {
	a, err := t.account()
	if err != nil {
		return err
	}
	if count, ok := counts[oneTimeAlgorithm]; ok || !a.Omits {
		a.Count = bounded(count)
	}
	// A sync that was under way during an upload does not know of it yet.
	if unusedFallback != nil && t.millis()-a.Rotated > time.Minute.Milliseconds() {
		a.Fallback = !slices.Contains(unusedFallback, oneTimeAlgorithm)
	}
	if t.millis()-a.Rotated > keepFallback.Milliseconds() {
		a.Account.ForgetFallback()
	}
	return t.save(keyAccount, a)
}
