package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// algorithms are the message algorithms that our devices offer.
var algorithms = []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"}

// Device is a device whose keys bear its own signature.
type Device struct {
	User     id.UserID         `json:"user"`
	ID       id.DeviceID       `json:"id"`
	Identity olm.Key           `json:"identity"` // Curve25519
	Signing  ed25519.PublicKey `json:"signing"`  // Ed25519, the fingerprint
	Name     string            `json:"name,omitempty"`
	JSON     json.RawMessage   `json:"json"` // canonical, with signatures
}

type deviceObject struct {
	User       id.UserID           `json:"user_id"`
	Device     id.DeviceID         `json:"device_id"`
	Algorithms []string            `json:"algorithms"`
	Keys       map[id.KeyID]string `json:"keys"`
	Unsigned   *struct {
		Name string `json:"device_display_name"`
	} `json:"unsigned,omitempty"`
}

// NewDevice is the signed object of keys of an account.
func NewDevice(user id.UserID, device id.DeviceID, account *olm.Account) (json.RawMessage, error) {
	obj, err := canonicaljson.Encode(deviceObject{
		User: user, Device: device, Algorithms: algorithms,
		Keys: map[id.KeyID]string{
			"curve25519:" + id.KeyID(device): account.Identity().String(),
			"ed25519:" + id.KeyID(device):    wire.Base64(account.Signing()),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("describing the device: %w", err)
	}
	return SignJSON(obj, DeviceSigner(user, device, account))
}

// DeviceSigner signs with a device's key.
func DeviceSigner(user id.UserID, device id.DeviceID, account *olm.Account) Signer {
	return Signer{User: user, Key: "ed25519:" + id.KeyID(device), Sign: account.Sign}
}

// ParseDevice reads a device's keys from an answer to /keys/query, and checks that they are those of the
// device that was asked for and bear its signature.
func ParseDevice(raw []byte, user id.UserID, device id.DeviceID) (*Device, error) {
	if len(raw) > MaxObject {
		return nil, fmt.Errorf("reading a device: %w: larger than %d bytes", ErrMalformed, MaxObject)
	}
	var obj deviceObject
	if err := json.Unmarshal(raw, &obj); err != nil {
		return nil, fmt.Errorf("reading a device: %w: %w", ErrMalformed, err)
	}
	if obj.User != user || obj.Device != device {
		return nil, fmt.Errorf("reading a device: %w: it claims to be another one", ErrMalformed)
	}
	curve, err := olm.ParseKey(obj.Keys["curve25519:"+id.KeyID(device)])
	if err != nil {
		return nil, fmt.Errorf("reading a device: %w: %w", ErrMalformed, err)
	}
	signing, err := wire.DecodeKey(obj.Keys["ed25519:"+id.KeyID(device)])
	if err != nil {
		return nil, fmt.Errorf("reading a device: %w: %w", ErrMalformed, err)
	}
	d := &Device{User: user, ID: device, Identity: curve, Signing: signing}
	if obj.Unsigned != nil {
		d.Name = obj.Unsigned.Name
	}
	if d.JSON, err = withoutUnsigned(raw); err != nil {
		return nil, fmt.Errorf("reading a device: %w", err)
	}
	if err := VerifyJSON(d.JSON, user, "ed25519:"+id.KeyID(device), d.Signing); err != nil {
		return nil, fmt.Errorf("reading a device: %w", err)
	}
	return d, nil
}

// SignedBy says whether a cross-signing key of a user signed the device.
func (d *Device) SignedBy(user id.UserID, public ed25519.PublicKey) bool {
	return VerifyJSON(d.JSON, user, KeyID(public), public) == nil
}

// Fingerprint is the device's signing key as people compare it.
func (d *Device) Fingerprint() string { return wire.Base64(d.Signing) }

// OneTimeKey is what a claim gives for a device: checked to be signed by it.
func (d *Device) OneTimeKey(raw []byte) (olm.Key, error) {
	if err := VerifyJSON(raw, d.User, "ed25519:"+id.KeyID(d.ID), d.Signing); err != nil {
		return olm.Key{}, fmt.Errorf("reading a one-time key: %w", err)
	}
	var obj struct {
		Key olm.Key `json:"key"`
	}
	if err := json.Unmarshal(raw, &obj); err != nil {
		return olm.Key{}, fmt.Errorf("reading a one-time key: %w: %w", ErrMalformed, err)
	}
	return obj.Key, nil
}

// NewOneTimeKey is a signed one-time or fallback key.
func NewOneTimeKey(key olm.Key, fallback bool, by Signer) (json.RawMessage, error) {
	obj := map[string]any{"key": key}
	if fallback {
		obj["fallback"] = true
	}
	raw, err := canonicaljson.Encode(obj)
	if err != nil {
		return nil, fmt.Errorf("describing a one-time key: %w", err)
	}
	return SignJSON(raw, by)
}

func withoutUnsigned(raw []byte) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := canonicaljson.Valid(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	delete(members, "unsigned")
	return canonicaljson.Encode(members)
}
