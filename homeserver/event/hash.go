package event

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// ReferenceHash is the hash by which later events of room versions 1 and 2 name this one beside its ID, in
// unpadded standard base64 (Server-Server API, "Calculating the reference hash for an event").
func (e *Event) ReferenceHash() string {
	hash := referenceHash(e.Version, e.Type, e.JSON)
	return sign.Base64(hash[:])
}

// CheckContentHash reports whether the event is what its "hashes" say. If not, all that is genuine of it is
// what remains when it is redacted.
func CheckContentHash(e *Event) bool {
	encoded, _ := canonicaljson.String(canonicaljson.Get(canonicaljson.Get(e.JSON, "hashes"), "sha256"))
	claimed, err := sign.DecodeBase64(encoded)
	if err != nil {
		return false
	}
	hash := contentHash(e.JSON)
	return subtle.ConstantTimeCompare(hash[:], claimed) == 1
}

func contentHash(canonical []byte) [sha256.Size]byte {
	return sha256.Sum256(canonicaljson.Without(canonical, "hashes", "signatures", "unsigned"))
}

func referenceHash(v *Version, typ string, canonical []byte) [sha256.Size]byte {
	return sha256.Sum256(appendRedacted(make([]byte, 0, min(len(canonical), 2048)), v, typ, canonical, false))
}

// eventID is the ID of an event of that reference hash.
func (v *Version) eventID(hash [sha256.Size]byte) id.EventID {
	encoding := base64.RawURLEncoding
	if v.EventIDs == EventIDBase64 {
		encoding = base64.RawStdEncoding
	}
	b := make([]byte, 1, 1+base64.RawURLEncoding.EncodedLen(len(hash)))
	b[0] = '$'
	return id.EventID(encoding.AppendEncode(b, hash[:]))
}
