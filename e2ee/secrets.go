package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// The secrets that verified devices of a user give each other on request (Client-Server API, "Sharing"): the private
// keys of the user's identity, and that of the key backup.
const (
	secretMaster      = "m.cross_signing.master"
	secretSelfSigning = "m.cross_signing.self_signing"
	secretUserSigning = "m.cross_signing.user_signing"
)

// seeds are where a private identity has its secrets, by their names.
func seeds(p *identity.Private) map[string]*[]byte {
	return map[string]*[]byte{secretMaster: &p.Master, secretSelfSigning: &p.SelfSigning, secretUserSigning: &p.UserSigning}
}

// secretsRecord is what the own verified devices were asked for: request IDs by the secrets' names, and what came.
type secretsRecord struct {
	At    int64             `json:"at"`
	Asked map[string]string `json:"asked"`
	Came  identity.Private  `json:"came"`
}

// secretRequest is the content of m.secret.request.
type secretRequest struct {
	Name   string      `json:"name,omitempty"`
	Action string      `json:"action"`
	ID     string      `json:"request_id"`
	Device id.DeviceID `json:"requesting_device_id"`
}

// secretSend is the content of m.secret.send.
type secretSend struct {
	ID     string `json:"request_id"`
	Secret string `json:"secret"`
}

// askSecrets asks the own verified devices for the private keys of the identity, if that is verified and they are not
// here. Who does not answer is asked again after an hour, when something else wakes the machine.
func (t *txn) askSecrets() error {
	c, err := t.crossSigning()
	if err != nil || c.Private != nil || c.Pending != nil {
		return err
	}
	own, err := loadUser(t, t.m.user)
	if err != nil || own.Identity == nil || !own.Verified || own.changed() {
		return err
	}
	s, err := load[secretsRecord](t, keySecrets)
	if err != nil || s != nil && t.millis()-s.At < askAgain.Milliseconds() {
		return err
	}
	devices := t.verifiedOthers(own)
	if len(devices) == 0 {
		return nil
	}
	if s == nil {
		s = &secretsRecord{Asked: map[string]string{secretMaster: newID(), secretSelfSigning: newID(), secretUserSigning: newID()}}
	}
	s.At = t.millis()
	if err := t.save(keySecrets, s); err != nil {
		return err
	}
	for name, request := range s.Asked {
		if err := t.postSecret(devices, secretRequest{Name: name, Action: "request", ID: request, Device: t.m.device}); err != nil {
			return err
		}
	}
	return nil
}

// verifiedOthers are the verified devices of this user but for this one.
func (t *txn) verifiedOthers(own *userRecord) (devices []id.DeviceID) {
	for device, d := range own.Devices {
		if device != t.m.device && !d.Gone && t.m.deviceTrust(own, d).Level == Green {
			devices = append(devices, device)
		}
	}
	return devices
}

func (t *txn) postSecret(devices []id.DeviceID, c secretRequest) error {
	to := recipients{}
	for _, device := range devices {
		to.add(t.m.user, device, c)
	}
	return t.post("m.secret.request", to)
}

// receiveSecretRequest notes that another device asks. Whether it is answered is decided by serveRequests.
func (t *txn) receiveSecretRequest(sender id.UserID, raw json.RawMessage) (problem, err error) {
	var c secretRequest
	if json.Unmarshal(raw, &c) != nil {
		return errors.New("it is malformed"), nil
	}
	if _, known := seeds(&identity.Private{})[c.Name]; c.Action == "request" && !known && c.Name != secretBackup {
		return nil, nil
	}
	return nil, t.noteRequest(sender, c.Action, serveRecord{Device: c.Device, Secret: c.Name}, c.ID)
}

// giveSecret answers a verified own device.
func (t *txn) giveSecret(d *deviceRecord, r *serveRecord) error {
	if r.Secret == secretBackup {
		return t.giveBackupKey(d, r)
	}
	c, err := t.crossSigning()
	if err != nil || c.Private == nil {
		return err
	}
	seed := seeds(c.Private)[r.Secret]
	if seed == nil || len(*seed) == 0 {
		return nil
	}
	return t.tell(&d.Device, "m.secret.send", secretSend{ID: r.Request, Secret: wire.Base64(*seed)})
}

// receiveSecret takes a secret from a verified own device that was asked. The keys are taken into use when they are
// all here and are those of the verified identity: a device can't slip in other ones.
func (t *txn) receiveSecret(from origin, raw json.RawMessage) (problem, err error) {
	var c secretSend
	if json.Unmarshal(raw, &c) != nil {
		return errors.New("a secret is malformed"), nil
	}
	device, err := t.verifiedOwn(from)
	if err != nil {
		return nil, err
	}
	s, err := load[secretsRecord](t, keySecrets)
	if err != nil {
		return nil, err
	}
	seed, malformed := wire.DecodeKey(c.Secret)
	if device != nil && malformed == nil {
		if ours, err := t.receiveBackupKey(&c, seed); ours || err != nil {
			return nil, err
		}
	}
	if device == nil || s == nil {
		return errors.New("a secret that was not asked for, or not of a verified device"), nil
	}
	if malformed != nil {
		return errors.New("a secret is malformed"), nil
	}
	whole, asked := true, false
	for name, place := range seeds(&s.Came) {
		if s.Asked[name] == c.ID {
			*place, asked = seed, true
		}
		whole = whole && len(*place) > 0
	}
	if !asked {
		return errors.New("a secret that was not asked for"), nil
	}
	if !whole {
		return nil, t.save(keySecrets, s)
	}
	return t.useSecrets(s)
}

func (t *txn) useSecrets(s *secretsRecord) (problem, err error) {
	own, err := loadUser(t, t.m.user)
	if err != nil {
		return nil, err
	}
	t.Delete(keySecrets)
	if own.Identity == nil || !own.Verified || own.changed() || !s.Came.Matches(own.Identity) {
		return fmt.Errorf("secrets: %w", ErrFingerprint), nil
	}
	for _, request := range s.Asked {
		if err := t.postSecret(t.verifiedOthers(own), secretRequest{Action: "request_cancellation", ID: request, Device: t.m.device}); err != nil {
			return nil, err
		}
	}
	return nil, t.save(keyCrossSigning, crossRecord{Private: &s.Came})
}
