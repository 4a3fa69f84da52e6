package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

// receive gives the encryption what it needs of an answer to /sync. When it returns, keys and position are on disk.
func (s *session) receive(answer *client.SyncAnswer) error {
	got, err := s.machine.ReceiveSync(e2ee.Sync{
		ToDevice: answer.ToDevice.Events, Changed: answer.DeviceLists.Changed, Left: answer.DeviceLists.Left,
		OneTimeKeys: answer.OneTimeKeys, UnusedFallback: answer.UnusedFallback, Next: answer.Next,
	})
	if err != nil {
		return err
	}
	for _, problem := range got.Problems {
		s.app.note("Warning: set aside: %s", problem)
	}
	for _, v := range got.Verifications {
		s.verification(v)
	}
	return nil
}

// flush does what the encryption wants done: upload keys, learn of others' devices, begin broken conversations
// anew, send what waits, and add to the backup.
func (s *session) flush(ctx context.Context) error {
	if err := s.uploadKeys(ctx); err != nil {
		return err
	}
	if err := s.learnUsers(ctx, nil); err != nil {
		return err
	}
	if err := s.claim(ctx, nil); err != nil {
		return err
	}
	if err := s.sendOutbox(ctx); err != nil {
		return err
	}
	return s.backUp(ctx)
}

func (s *session) uploadKeys(ctx context.Context) error {
	body, err := s.machine.KeysUpload()
	if err != nil || body == nil {
		return err
	}
	raw, err := s.client.UploadKeys(ctx, body)
	if err != nil {
		return err
	}
	var answer struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	return s.machine.MarkKeysUploaded(body, answer.Counts)
}

// claim takes one-time keys of devices that nothing can be sent to yet.
func (s *session) claim(ctx context.Context, users []id.UserID) error {
	request, err := s.machine.KeysToClaim(users...)
	if err != nil || request == nil {
		return err
	}
	answer, err := s.client.ClaimKeys(ctx, request)
	if err != nil {
		return err
	}
	problems, err := s.machine.ReceiveKeysClaim(request, answer)
	for _, problem := range problems {
		s.app.note("Warning: %s", problem)
	}
	return err
}

func (s *session) sendOutbox(ctx context.Context) error {
	waiting, err := s.machine.Outbox()
	if err != nil {
		return err
	}
	for _, one := range waiting {
		err := s.client.SendToDevice(ctx, one.Type, one.Txn, one.Body)
		switch {
		case err != nil && !forGood(err):
			return err
		case err != nil:
			// What comes after it must not wait for ever.
			s.app.note("Warning: the server does not take a message %s to %s, which is given up; they may not be able to read what you write: %v",
				one.Type, strings.Join(one.Users(), ", "), err)
		}
		if err := s.machine.MarkSent(one.Txn); err != nil {
			return err
		}
	}
	return nil
}

// forGood says whether a server would refuse the same again, as far as it is the Matrix server that answers: a proxy's
// page says nothing of that, but for what is too large for it.
func forGood(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Status/100 == 4 && (refused.Code != "" || refused.Status == http.StatusRequestEntityTooLarge) &&
		refused.Status != http.StatusUnauthorized && refused.Status != http.StatusTooManyRequests
}

// afterDecrypting sends what decrypting made necessary, such as requests for missing keys.
func (s *session) afterDecrypting(ctx context.Context) error { return s.sendOutbox(ctx) }

// seal encrypts a message: everybody who is to read it gets the room's key first.
func (s *session) seal(ctx context.Context, room id.RoomID, kind string, content json.RawMessage, facts roomFacts, options sendOptions) (json.RawMessage, error) {
	readers, err := s.recipients(ctx, room)
	if err != nil {
		return nil, err
	}
	if err := s.uploadKeys(ctx); err != nil {
		return nil, err
	}
	if err := s.learnUsers(ctx, readers.users); err != nil {
		return nil, err
	}
	if err := s.claim(ctx, readers.users); err != nil {
		return nil, err
	}
	withheld, err := s.machine.ShareRoomKey(room, e2ee.Sharing{
		Members: readers.users, Visibility: readers.visibility, VerifiedOnly: options.verifiedOnly, Verifying: options.verifying,
		MaxMessages: facts.RotateMessages, MaxAge: time.Duration(facts.RotateMS) * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	for _, w := range withheld {
		if w.User == s.me.User && w.Reason == e2ee.ReasonNotOwned || options.verifying != "" {
			continue // the user's own unverified sessions are listed by "devices", not with every message
		}
		s.app.note("Warning: device %s of %s can't read this: %s", w.Device, w.User, w.Reason)
	}
	if err := s.sendOutbox(ctx); err != nil {
		return nil, err
	}
	return s.machine.EncryptRoomEvent(room, kind, content)
}

// unseal decrypts an event into a message, or says in it why it can't.
func (s *session) unseal(m *message, e client.Event) {
	m.Encrypted = true
	got, err := s.machine.DecryptRoomEvent(m.Room, e.Raw)
	if err != nil {
		m.Kind, m.Content, m.Trust, m.Reason = "message", nil, e2ee.Red, err.Error()
		m.Body = "(can't be decrypted)"
		m.undecryptable = true
		if !errors.Is(err, e2ee.ErrNoKey) {
			m.Reason = "somebody may have tampered with it: " + err.Error()
		}
		return
	}
	if got.PutBack {
		s.app.note("Warning: this profile was put back from an older copy. Keys that were used already are given up; what you " +
			"send from now on has new ones. Better log in anew, and restore your key backup.")
	}
	m.Type, m.Device = got.Type, got.Device
	m.Trust, m.Reason = got.Trust.Level, string(got.Trust.Reason)
	if m.Content, m.Related = withRelation(got.Content, e.Content); m.Related == e2ee.Red {
		m.Trust, m.Reason = e2ee.Red, "a server has exchanged what it belongs to"
	}
}
