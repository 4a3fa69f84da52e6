package sign

import (
	"fmt"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// JSON signs an object (Appendices, "Signing Details"). The result is canonical JSON with the signature
// among those that were there before; "unsigned" is kept and not covered.
func JSON(obj []byte, server string, k Key) ([]byte, error) {
	canonical, err := canonicaljson.Canonicalize(obj)
	if err != nil {
		return nil, fmt.Errorf("signing JSON: %w", err)
	}
	signed, err := AddSignature(canonical, server, k.ID, k.Sign(Message(canonical)))
	if err != nil {
		return nil, fmt.Errorf("signing JSON: %w", err)
	}
	return signed, nil
}

// Message is what a signature of an object covers. The object must be canonical JSON.
func Message(canonical []byte) []byte {
	return canonicaljson.Without(canonical, "signatures", "unsigned")
}

// AddSignature puts a signature into an object of canonical JSON.
func AddSignature(canonical []byte, server string, keyID id.KeyID, signature string) ([]byte, error) {
	if len(canonical) == 0 || canonical[0] != '{' {
		return nil, fmt.Errorf("%w: only objects can be signed", canonicaljson.ErrInvalid)
	}
	all := canonicaljson.Get(canonical, "signatures")
	servers := get(all, server)
	if all != nil && all[0] != '{' || servers != nil && servers[0] != '{' {
		return nil, fmt.Errorf("%w: \"signatures\" is not an object of objects", canonicaljson.ErrInvalid)
	}
	servers = canonicaljson.With(servers, string(keyID), canonicaljson.AppendString(nil, signature))
	return canonicaljson.With(canonical, "signatures", canonicaljson.With(all, server, servers)), nil
}

// VerifyJSON checks that an object is signed by a server with a key. The errors are ErrNotSigned,
// ErrBadSignature, or for what is no JSON canonicaljson.ErrInvalid.
func VerifyJSON(obj []byte, server string, keyID id.KeyID, pub PublicKey) error {
	canonical, err := canonicaljson.CanonicalizeLenient(obj)
	if err != nil {
		return fmt.Errorf("verifying JSON: %w", err)
	}
	signature, ok := canonicaljson.String(get(get(canonicaljson.Get(canonical, "signatures"), server), string(keyID)))
	if !ok {
		return fmt.Errorf("%w by %s with %s", ErrNotSigned, server, keyID)
	}
	if err := Verify(pub, Message(canonical), signature); err != nil {
		return fmt.Errorf("%w by %s with %s", err, server, keyID)
	}
	return nil
}

// KeyIDs names the ed25519 keys of a server with which an object claims to be signed.
func KeyIDs(obj []byte, server string) []id.KeyID {
	canonical, err := canonicaljson.CanonicalizeLenient(obj)
	if err != nil {
		return nil
	}
	var ids []id.KeyID
	for key := range canonicaljson.Members(get(canonicaljson.Get(canonical, "signatures"), server)) {
		if keyID := id.KeyID(key); keyID.Algorithm() == "ed25519" && keyID.Name() != "" {
			ids = append(ids, keyID)
		}
	}
	return ids
}

// get is canonicaljson.Get for a key in plain text.
func get(obj []byte, key string) []byte {
	quoted := canonicaljson.AppendString(nil, key)
	return canonicaljson.Get(obj, string(quoted[1:len(quoted)-1]))
}
