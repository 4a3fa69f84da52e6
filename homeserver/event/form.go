package event

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// canonicalize brings an event, or the content of one, into the canonical form of its version.
func (v *Version) canonicalize(raw []byte) ([]byte, error) {
	if len(raw) > maxForeignSize {
		return nil, tooLarge("the event with its unsigned data", maxForeignSize)
	}
	canonical, err := canonicaljson.Form(raw, v.StrictJSON)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if canonical[0] != '{' {
		return nil, malformed("it is no object")
	}
	return canonical, nil
}

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

// Redact is the event without what the redaction algorithm of its version strips. ID, hashes and signatures
// stay the same and valid.
func (e *Event) Redact() (*Event, error) {
	raw := appendRedacted(make([]byte, 0, len(e.JSON)), e.Version, e.Type, e.JSON, true)
	redacted, err := ParseTrusted(e.Version, e.ID, raw)
	if err != nil {
		return nil, fmt.Errorf("redacting: %w", err)
	}
	return redacted, nil
}

// RedactJSON is the redaction algorithm on any JSON of an event, such as one to be verified or signed that
// is not complete. The result is canonical JSON; "unsigned" is stripped as well.
func RedactJSON(v *Version, raw []byte) ([]byte, error) {
	canonical, err := v.canonicalize(raw)
	if err != nil {
		return nil, err
	}
	typ, ok := canonicaljson.String(canonicaljson.Get(canonical, "type"))
	if !ok {
		return nil, malformed("type is no string")
	}
	if content := canonicaljson.Get(canonical, "content"); content == nil || content[0] != '{' {
		return nil, malformed("content is no object")
	}
	return appendRedacted(make([]byte, 0, len(canonical)), v, typ, canonical, true), nil
}

// appendRedacted writes what the redaction algorithm leaves of an event in canonical JSON; without
// signatures, that is what is signed and what the reference hash covers.
func appendRedacted(dst []byte, v *Version, typ string, canonical []byte, signatures bool) []byte {
	dst = append(dst, '{')
	for key, value := range canonicaljson.Members(canonical) {
		if !v.keepsMember(string(key)) || !signatures && string(key) == "signatures" {
			continue
		}
		dst = appendKey(dst, key)
		if string(key) == "content" {
			dst = appendRedactedContent(dst, v, typ, value)
		} else {
			dst = append(dst, value...)
		}
	}
	return append(dst, '}')
}

func appendRedactedContent(dst []byte, v *Version, typ string, content []byte) []byte {
	switch typ {
	case TypeMember, TypeCreate, TypeJoinRules, TypePowerLevels, TypeHistoryVisibility, TypeAliases, TypeRedaction:
	default:
		return append(dst, "{}"...) // most events are messages, which lose all content: nobody has to look into it
	}
	dst = append(dst, '{')
	for key, value := range canonicaljson.Members(content) {
		if !v.keepsContent(typ, string(key)) {
			continue
		}
		if typ != TypeMember || string(key) != "third_party_invite" {
			dst = append(appendKey(dst, key), value...)
		} else if value[0] == '{' {
			dst = appendSigned(appendKey(dst, key), value)
		}
	}
	return append(dst, '}')
}

// appendSigned writes the third-party invite of an m.room.member, of which only "signed" is kept.
func appendSigned(dst, invite []byte) []byte {
	dst = append(dst, '{')
	if signed := canonicaljson.Get(invite, "signed"); signed != nil {
		dst = append(appendKey(dst, []byte("signed")), signed...)
	}
	return append(dst, '}')
}

// appendKey begins a member of an object that is being written.
func appendKey(dst, key []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}

func (v *Version) keepsMember(key string) bool {
	switch key {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth",
		"prev_events", "auth_events", "origin_server_ts":
		return true
	case "prev_state", "origin", "membership":
		return !v.UpdatedRedaction
	}
	return false
}

func (v *Version) keepsContent(typ, key string) bool {
	switch typ {
	case TypeMember:
		return key == "membership" ||
			v.RestrictedJoinRedaction && key == "join_authorised_via_users_server" ||
			v.UpdatedRedaction && key == "third_party_invite"
	case TypeCreate:
		return key == "creator" || v.UpdatedRedaction
	case TypeJoinRules:
		return key == "join_rule" || v.JoinRulesAllowRedaction && key == "allow"
	case TypePowerLevels:
		switch key {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		}
		return v.UpdatedRedaction && key == "invite"
	case TypeAliases:
		return v.AliasesRedaction && key == "aliases"
	case TypeHistoryVisibility:
		return key == "history_visibility"
	case TypeRedaction:
		return v.UpdatedRedaction && key == "redacts"
	}
	return false
}
