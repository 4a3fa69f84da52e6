package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// ErrNoPrivateKeys says that the private cross-signing keys are not on this device.
var ErrNoPrivateKeys = errors.New("the private cross-signing keys are not on this device")

// CrossSigningUpload is the body of POST /keys/device_signing/upload, to which the client adds
// authentication.
type CrossSigningUpload struct {
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
	UserSigning json.RawMessage `json:"user_signing_key"`
}

// SignaturesUpload is the body of POST /keys/signatures/upload: signed objects by user and by device or key.
type SignaturesUpload map[id.UserID]map[string]json.RawMessage

// crossRecord holds private keys. They are pending until the server took the public ones.
type crossRecord struct {
	Private *identity.Private `json:"private,omitempty"`
	Pending *identity.Private `json:"pending,omitempty"`
}

// HasCrossSigning says whether the private cross-signing keys are on this device.
func (m *Machine) HasCrossSigning() bool {
	c, err := load[crossRecord](m.vault, keyCrossSigning)
	return err == nil && c != nil && c.Private != nil
}

// CreateCrossSigning makes a new identity for the user. The keys are in use only after
// MarkCrossSigningUploaded; called again before that, it gives the same ones.
func (m *Machine) CreateCrossSigning() (*CrossSigningUpload, error) {
	var body CrossSigningUpload
	err := m.update(func(t *txn) error {
		c, err := t.crossSigning()
		if err != nil {
			return err
		}
		a, err := t.account()
		if err != nil {
			return err
		}
		if c.Pending == nil {
			c.Pending = identity.NewPrivate()
		}
		device := a.signer()
		if body.Master, body.SelfSigning, body.UserSigning, err = c.Pending.Public(m.user, &device); err != nil {
			return err
		}
		return t.save(keyCrossSigning, c)
	})
	if err != nil {
		return nil, fmt.Errorf("creating cross-signing keys: %w", err)
	}
	return &body, nil
}

// MarkCrossSigningUploaded takes the identity of CreateCrossSigning into use. The result, for POST
// /keys/signatures/upload, signs this device.
func (m *Machine) MarkCrossSigningUploaded() (*SignaturesUpload, error) {
	var body *SignaturesUpload
	err := m.update(func(t *txn) error {
		c, err := t.crossSigning()
		if err != nil {
			return err
		}
		if c.Pending == nil {
			return ErrNoPrivateKeys
		}
		c.Private, c.Pending = c.Pending, nil
		if err := t.save(keyCrossSigning, c); err != nil {
			return err
		}
		body, err = t.adopt(c.Private)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("taking cross-signing keys into use: %w", err)
	}
	return body, nil
}

// ImportCrossSigning takes the private keys of the user's identity, as secret storage has them in base64.
// They must be those of the identity that the server has. The result signs this device.
func (m *Machine) ImportCrossSigning(master, selfSigning, userSigning string) (*SignaturesUpload, error) {
	p := &identity.Private{}
	for seed, text := range map[*[]byte]string{&p.Master: master, &p.SelfSigning: selfSigning, &p.UserSigning: userSigning} {
		raw, err := wire.DecodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("importing cross-signing keys: %w", err)
		}
		*seed = raw
	}
	var body *SignaturesUpload
	err := m.update(func(t *txn) error {
		own, err := loadUser(t, m.user)
		if err != nil {
			return err
		}
		if own.Identity == nil || !p.Matches(own.Identity) {
			return ErrFingerprint
		}
		if err := t.save(keyCrossSigning, crossRecord{Private: p}); err != nil {
			return err
		}
		body, err = t.adopt(p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("importing cross-signing keys: %w", err)
	}
	return body, nil
}

// ExportCrossSigning are the private keys in base64, to be stored only where they are encrypted.
func (m *Machine) ExportCrossSigning() (master, selfSigning, userSigning string, err error) {
	c, err := load[crossRecord](m.vault, keyCrossSigning)
	if err == nil && (c == nil || c.Private == nil) {
		err = ErrNoPrivateKeys
	}
	if err != nil {
		return "", "", "", fmt.Errorf("exporting cross-signing keys: %w", err)
	}
	return wire.Base64(c.Private.Master), wire.Base64(c.Private.SelfSigning), wire.Base64(c.Private.UserSigning), nil
}

// SignDevice vouches for another own device, after a person compared its fingerprint. The result is for
// POST /keys/signatures/upload.
func (m *Machine) SignDevice(device id.DeviceID, fingerprint string) (*SignaturesUpload, error) {
	var body *SignaturesUpload
	err := m.update(func(t *txn) error {
		own, err := loadUser(t, m.user)
		if err != nil {
			return err
		}
		d := own.Devices[device]
		if d == nil || d.Gone {
			return ErrUnknown
		}
		if !sameFingerprint(d.Fingerprint(), fingerprint) {
			return ErrFingerprint
		}
		c, err := t.crossSigning()
		if err != nil {
			return err
		}
		if c.Private == nil {
			return ErrNoPrivateKeys
		}
		d.Trust = Verified
		if err := t.saveUser(own); err != nil {
			return err
		}
		body, err = t.sign(c.Private, identity.SelfSigning, m.user, string(device), d.JSON)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing device %s: %w", device, err)
	}
	return body, nil
}

func (t *txn) crossSigning() (*crossRecord, error) {
	c, err := load[crossRecord](t, keyCrossSigning)
	if c == nil && err == nil {
		c = &crossRecord{}
	}
	return c, err
}

// adopt trusts the own identity whose private keys are here, and signs this device with it.
func (t *txn) adopt(p *identity.Private) (*SignaturesUpload, error) {
	a, err := t.account()
	if err != nil {
		return nil, err
	}
	device := a.signer()
	master, selfSigning, userSigning, err := p.Public(t.m.user, &device)
	if err != nil {
		return nil, err
	}
	own, err := loadUser(t, t.m.user)
	if err != nil {
		return nil, err
	}
	if own.Identity, err = identity.ParseUser(t.m.user, master, selfSigning, userSigning); err != nil {
		return nil, err
	}
	own.Pinned, own.Verified = own.Identity.Master.Key, true
	raw, err := identity.NewDevice(t.m.user, t.m.device, a.Account)
	if err != nil {
		return nil, err
	}
	body, err := t.sign(p, identity.SelfSigning, t.m.user, string(t.m.device), raw)
	if err != nil {
		return nil, err
	}
	// The answer to the next query will say the same; until then, messages already carry the signature.
	signed, err := identity.ParseDevice((*body)[t.m.user][string(t.m.device)], t.m.user, t.m.device)
	if err != nil {
		return nil, err
	}
	own.Devices[t.m.device] = &deviceRecord{Device: *signed}
	if err := t.saveUser(own); err != nil {
		return nil, err
	}
	return body, t.refreshVerified()
}

// signVerified signs the identity of a user who was verified; nil if the private key is not here.
func (t *txn) signVerified(u *userRecord) (*SignaturesUpload, error) {
	c, err := t.crossSigning()
	if err != nil || c.Private == nil || u.ID == t.m.user {
		return nil, err
	}
	return t.sign(c.Private, identity.UserSigning, u.ID, u.Identity.Fingerprint(), u.Identity.Master.JSON)
}

// sign makes the upload with one more signature, by one of the own cross-signing keys.
func (t *txn) sign(p *identity.Private, usage string, user id.UserID, name string, obj json.RawMessage) (*SignaturesUpload, error) {
	signer, err := p.Signer(t.m.user, usage)
	if err != nil {
		return nil, err
	}
	signed, err := identity.SignJSON(obj, signer)
	if err != nil {
		return nil, err
	}
	return &SignaturesUpload{user: {name: signed}}, nil
}
