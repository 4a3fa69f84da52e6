package event

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// maxSignatures is how many signatures of one server are looked at.
const maxSignatures = 20

// KeyFunc gives a server's signing key for an event of that origin_server_ts in milliseconds, if it is known
// and was valid then. In room versions without EnforceKeyValidity it is free to pass over the validity.
type KeyFunc func(server id.ServerName, keyID id.KeyID, at int64) (ed25519.PublicKey, bool)

// Sign is Event.Sign; the event is as genuine as before.
func (v Verified) Sign(server id.ServerName, key sign.Key) (Verified, error) {
	signed, err := v.ev.Sign(server, key)
	if err != nil {
		return Verified{}, err
	}
	return Verified{signed}, nil
}

// Verify checks the signatures and the content hash of an event (Server-Server API, "Validating hashes and
// signatures on received events"). Errors wrap sign.ErrNotSigned or sign.ErrBadSignature; such an event is to
// be dropped. If the content hash does not fit, the verified event is the redacted one.
func Verify(e *Event, keys KeyFunc) (Verified, error) {
	message := appendRedacted(make([]byte, 0, len(e.JSON)), e.Version, e.Type, e.JSON, false)
	signatures := canonicaljson.Get(e.JSON, "signatures")
	for _, server := range SignaturesNeeded(e) {
		if err := verifyServer(e, message, canonicaljson.Get(signatures, string(server)), server, keys); err != nil {
			return Verified{}, fmt.Errorf("event %s: %w", e.ID, err)
		}
	}
	if CheckContentHash(e) {
		return Verified{e}, nil
	}
	redacted, err := e.Redact()
	if err != nil {
		return Verified{}, err
	}
	return Verified{redacted}, nil
}

// verifyServer wants one good signature of a server and no bad one; those of unknown and expired keys don't
// count.
func verifyServer(e *Event, message, signatures []byte, server id.ServerName, keys KeyFunc) error {
	if server == "" {
		return fmt.Errorf("%w by a server without a name", sign.ErrNotSigned)
	}
	looked, good := 0, false
	for key, value := range canonicaljson.Members(signatures) {
		keyID := id.KeyID(key)
		if keyID.Algorithm() != "ed25519" {
			continue
		}
		if looked++; looked > maxSignatures {
			break
		}
		public, ok := keys(server, keyID, e.OriginServerTS)
		if !ok {
			continue
		}
		signature, _ := canonicaljson.String(value)
		if err := sign.Verify(public, message, signature); err != nil {
			return fmt.Errorf("%w by %s with %s", err, server, keyID)
		}
		good = true
	}
	if !good {
		return fmt.Errorf("%w by %s with a known and valid key", sign.ErrNotSigned, server)
	}
	return nil
}

// SignaturesNeeded names the servers that must have signed an event: that of the sender unless it is a
// third-party invite, that of the event ID in versions 1 and 2, and that of the user who authorised a
// restricted join. The name is empty, and no signature can satisfy it, if the latter is no user ID.
func SignaturesNeeded(e *Event) []id.ServerName {
	needed := make([]id.ServerName, 0, 3)
	add := func(server id.ServerName) {
		if !slices.Contains(needed, server) {
			needed = append(needed, server)
		}
	}
	if e.Type != TypeMember || e.membership != "invite" || canonicaljson.Get(e.Content, "third_party_invite") == nil {
		add(e.Sender.Server())
	}
	if e.Version.EventIDs == EventIDInEvent {
		add(e.ID.Server())
	}
	if e.Version.RestrictedJoin && e.Type == TypeMember {
		if via := canonicaljson.Get(e.Content, "join_authorised_via_users_server"); via != nil {
			s, _ := canonicaljson.String(via)
			user, _ := id.ParseUserID(s)
			add(user.Server())
		}
	}
	return needed
}

// SigningKeys names the ed25519 keys of a server with which the event claims to be signed, so that they can
// be fetched before Verify.
func (e *Event) SigningKeys(server id.ServerName) []id.KeyID {
	var ids []id.KeyID
	for key := range canonicaljson.Members(canonicaljson.Get(canonicaljson.Get(e.JSON, "signatures"), string(server))) {
		if keyID := id.KeyID(key); keyID.Algorithm() == "ed25519" && len(ids) < maxSignatures {
			ids = append(ids, keyID)
		}
	}
	return ids
}
