package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

// learnUsers fetches the devices and identities of users, as far as they are not up to date.
func (s *session) learnUsers(ctx context.Context, users []id.UserID) error {
	query, err := s.machine.UsersToQuery(users...)
	if err != nil || query == nil {
		return err
	}
	answer, err := s.client.QueryKeys(ctx, query)
	if err != nil {
		return err
	}
	changes, err := s.machine.ReceiveKeysQuery(query, answer)
	if err != nil {
		return err
	}
	for _, user := range changes.ChangedIdentities {
		s.app.note("WARNING: the identity of %s has changed. Verify it again: securecomm keys verify %s", user, user)
	}
	for _, problem := range changes.Problems {
		s.app.note("Warning: %s", problem)
	}
	return nil
}

// identityOf says in one word what is known of a user's identity.
func (s *session) identityOf(user id.UserID) string {
	switch found, err := s.machine.Identity(user); {
	case err != nil:
		return "unreadable"
	case found.Fingerprint == "":
		return "none"
	case found.Changed:
		return "changed"
	case found.Verified:
		return "verified"
	}
	return "unverified"
}

// deviceViews lists a user's devices; the user's own with what the server knows of them.
func (s *session) deviceViews(ctx context.Context, user id.UserID) ([]deviceView, error) {
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := s.learnUsers(ctx, []id.UserID{user}); err != nil {
		return nil, err
	}
	known, err := s.machine.Devices(user)
	if err != nil {
		return nil, err
	}
	views := []deviceView{}
	for _, d := range known {
		views = append(views, deviceView{User: user, ID: d.Device, Name: d.Name, Fingerprint: grouped(d.Fingerprint),
			Trust: d.Trust.Level, Reason: string(d.Trust.Reason), Current: user == s.me.User && d.Device == s.me.Device})
	}
	if user != s.me.User {
		return views, nil
	}
	listed, err := s.client.Devices(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range listed {
		at := slices.IndexFunc(views, func(v deviceView) bool { return v.ID == d.ID })
		if at < 0 {
			views = append(views, deviceView{User: user, ID: d.ID, Reason: "it has no keys"})
			at = len(views) - 1
		}
		views[at].Name, views[at].LastSeen, views[at].LastIP = d.Name, d.LastSeen, d.LastIP
	}
	return views, nil
}

// keysView is this session's part in the user's identity.
func (s *session) keysView(ctx context.Context) (keysView, error) {
	if err := s.learnUsers(ctx, []id.UserID{s.me.User}); err != nil {
		return keysView{}, err
	}
	own, err := s.machine.Identity(s.me.User)
	if err != nil {
		return keysView{}, err
	}
	v := keysView{User: s.me.User, Device: s.me.Device, Fingerprint: s.fingerprint(), Identity: grouped(own.Fingerprint)}
	switch {
	case own.Fingerprint == "":
		v.Status = "none; make one with \"securecomm keys bootstrap\""
	case own.Changed:
		v.Status = "CHANGED since this session saw it first; compare it with your other sessions"
	case s.machine.HasCrossSigning():
		v.Status = "this session holds its private keys"
	case own.Verified:
		v.Status = "verified; its private keys are elsewhere"
	default:
		v.Status = `not verified by this session; "securecomm keys verify ` + string(identifier(string(s.me.User))) +
			` --live" here and on another of your sessions, or "securecomm keys backup restore", fetches its keys`
	}
	return v, nil
}

// bootstrap makes the user's cross-signing identity and signs this session with it.
func (s *session) bootstrap(ctx context.Context, replace bool, password func() (string, error)) error {
	if err := s.learnUsers(ctx, []id.UserID{s.me.User}); err != nil {
		return err
	}
	own, err := s.machine.Identity(s.me.User)
	if err != nil {
		return err
	}
	if s.machine.HasCrossSigning() && !own.Changed && !replace {
		return nil
	}
	if own.Fingerprint != "" && !replace {
		return fail(exitUnsafe, `fetch its keys with "securecomm keys backup restore", or start anew with --replace`,
			"you have an identity already, made by another session")
	}
	body, err := s.machine.CreateCrossSigning()
	if err != nil {
		return err
	}
	if err := s.client.UploadCrossSigning(ctx, body, s.me.User, password); err != nil {
		return err
	}
	signatures, err := s.machine.MarkCrossSigningUploaded()
	if err != nil {
		return err
	}
	return s.uploadSignatures(ctx, signatures)
}

func (s *session) uploadSignatures(ctx context.Context, signatures *e2ee.SignaturesUpload) error {
	if signatures == nil {
		return nil
	}
	_, err := s.client.UploadSignatures(ctx, signatures)
	return err
}

// fingerprintOf is the fingerprint of a device, or of a user's identity if no device is given.
func (s *session) fingerprintOf(ctx context.Context, user id.UserID, device id.DeviceID) (string, error) {
	if err := s.learnUsers(ctx, []id.UserID{user}); err != nil {
		return "", err
	}
	if device == "" {
		found, err := s.machine.Identity(user)
		if err == nil && found.Fingerprint == "" {
			err = fail(exitFailure, `verify a device instead: "securecomm devices `+string(identifier(string(user)))+`" lists them`, "%s has no cross-signing identity", user)
		}
		return found.Fingerprint, err
	}
	known, err := s.machine.Devices(user)
	if err != nil {
		return "", err
	}
	for _, d := range known {
		if d.Device == device {
			return d.Fingerprint, nil
		}
	}
	return "", fail(exitFailure, `"securecomm devices `+string(identifier(string(user)))+`" lists the devices`, "%s has no device %s with keys", user, device)
}

// verify marks as verified what has the given fingerprint, and tells the user's other sessions where it can.
func (s *session) verify(ctx context.Context, user id.UserID, device id.DeviceID, fingerprint string) error {
	if device == "" {
		signatures, err := s.machine.VerifyUser(user, fingerprint)
		if err != nil {
			return err
		}
		return s.uploadSignatures(ctx, signatures)
	}
	if user == s.me.User && s.machine.HasCrossSigning() {
		signatures, err := s.machine.SignDevice(device, fingerprint)
		if err != nil {
			return err
		}
		return s.uploadSignatures(ctx, signatures)
	}
	return s.machine.SetDeviceTrust(user, device, e2ee.Verified, fingerprint)
}

// explainKeys is explain for the errors of the encryption.
func explainKeys(err error) (code int, hint string, ok bool) {
	var cancelled *verify.Cancelled
	if errors.As(err, &cancelled) {
		switch cancelled.Code {
		case verify.CodeText, verify.CodeKey, verify.CodeCommitment:
			return exitUnsafe, "do not trust it: somebody may be between you; try again over another channel", true
		}
		return exitFailure, "begin again when both are ready", true
	}
	switch {
	case errors.Is(err, e2ee.ErrFingerprint), errors.Is(err, e2ee.ErrCollision):
		return exitUnsafe, "do not trust it; ask again over another channel who holds this key", true
	case errors.Is(err, e2ee.ErrKeyChanged):
		return exitUnsafe, "devices never change their keys: somebody may be attacking; ask the server's administrator", true
	case errors.Is(err, e2ee.ErrOtherDevice):
		return exitFailure, "log in under another --profile", true
	case errors.Is(err, e2ee.ErrNoPrivateKeys):
		return exitFailure, `make an identity with "securecomm keys bootstrap", or fetch its keys with "securecomm keys backup restore"`, true
	}
	return 0, "", false
}
