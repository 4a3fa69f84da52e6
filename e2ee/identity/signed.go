package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// MaxObject is the largest signed object in bytes that is looked at.
const MaxObject = 64 << 10

var (
	// ErrSignature says that a signature is missing or does not match.
	ErrSignature = errors.New("the signature is missing or does not match")
	// ErrMalformed is wrapped by every refusal to read an object of keys.
	ErrMalformed = errors.New("malformed keys")
)

// Signer signs as a user's device or cross-signing key.
type Signer struct {
	User id.UserID
	Key  id.KeyID
	Sign func(message []byte) []byte
}

// SignerOf signs with a private cross-signing key, whose ID is its public key.
func SignerOf(user id.UserID, private ed25519.PrivateKey) Signer {
	return Signer{
		User: user, Key: KeyID(private.Public().(ed25519.PublicKey)),
		Sign: func(message []byte) []byte { return ed25519.Sign(private, message) },
	}
}

// KeyID is the ID of a cross-signing key.
func KeyID(public ed25519.PublicKey) id.KeyID { return id.KeyID(Algorithm + ":" + wire.Base64(public)) }

// Algorithm is the first part of the IDs of signing keys.
const Algorithm = "ed25519"

// SignJSON adds a signature to an object and keeps those that are there; unsigned is dropped (Appendices,
// "Signing JSON").
func SignJSON(obj []byte, by Signer) ([]byte, error) {
	body, signatures, err := split(obj)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if signatures == nil {
		signatures = map[id.UserID]map[id.KeyID]string{}
	}
	if signatures[by.User] == nil {
		signatures[by.User] = map[id.KeyID]string{}
	}
	signatures[by.User][by.Key] = wire.Base64(by.Sign(body))
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if members["signatures"], err = json.Marshal(signatures); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	out, err := canonicaljson.Encode(members)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return out, nil
}

// VerifyJSON checks one signature of an object. The key is the one that the caller trusts; its ID alone
// proves nothing.
func VerifyJSON(obj []byte, user id.UserID, keyID id.KeyID, public ed25519.PublicKey) error {
	body, signatures, err := split(obj)
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	signature, err := wire.DecodeBase64(signatures[user][keyID])
	if err != nil || len(signature) != ed25519.SignatureSize || len(public) != ed25519.PublicKeySize ||
		!ed25519.Verify(public, body, signature) {
		return fmt.Errorf("verifying the signature of %s: %w", user, ErrSignature)
	}
	return nil
}

// split takes an object apart into what is signed, in canonical form, and its signatures.
func split(obj []byte) (body []byte, signatures map[id.UserID]map[id.KeyID]string, err error) {
	if len(obj) > MaxObject {
		return nil, nil, fmt.Errorf("%w: larger than %d bytes", ErrMalformed, MaxObject)
	}
	canonical, err := canonicaljson.Canonicalize(obj)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if canonical[0] != '{' {
		return nil, nil, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	body = append(make([]byte, 0, len(canonical)), '{')
	for key, value := range canonicaljson.Members(canonical) {
		switch string(key) {
		case "signatures":
			signatures = readSignatures(value)
			continue
		case "unsigned":
			continue
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = append(append(append(append(body, '"'), key...), '"', ':'), value...)
	}
	return append(body, '}'), signatures, nil
}

// readSignatures leaves out what is no signature; others' signatures may be of kinds unknown today.
func readSignatures(raw []byte) map[id.UserID]map[id.KeyID]string {
	signatures := map[id.UserID]map[id.KeyID]string{}
	for user, keys := range canonicaljson.Members(raw) {
		name, ok := canonicaljson.String(append(append([]byte{'"'}, user...), '"'))
		if !ok {
			continue
		}
		var known map[id.KeyID]string
		if json.Unmarshal(keys, &known) == nil {
			signatures[id.UserID(name)] = known
		}
	}
	return signatures
}
