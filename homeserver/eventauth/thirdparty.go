package eventauth

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// maxThirdPartyChecks bounds the signatures that are tried for one third-party invite. Real ones carry one
// signature and at most two keys; without a bound an event of 64 kB could ask for 100,000 verifications.
const maxThirdPartyChecks = 256

// authorizeThirdParty is the rule for invites that stand in for an m.room.third_party_invite.
func authorizeThirdParty(e *event.Event, state State, raw json.RawMessage) error {
	n := numbersOf(e.Version)
	no := func(reason string, point int) error { return refuse(reason, n.member, n.invite, 1, point) }
	if memberOf(state, id.UserID(*e.StateKey)) == "ban" {
		return no("the invited user is banned", 1)
	}
	var invite, signed map[string]json.RawMessage
	if json.Unmarshal(raw, &invite) != nil || json.Unmarshal(invite["signed"], &signed) != nil || signed == nil {
		return no("nothing is signed", 2)
	}
	mxid, token := stringMember(signed, "mxid"), stringMember(signed, "token")
	if mxid == "" || token == "" {
		return no("the signed part lacks user or token", 3)
	}
	if mxid != *e.StateKey {
		return no("the signed part is for another user", 4)
	}
	promise := state.Get(event.TypeThirdPartyInvite, token)
	if promise == nil {
		return no("there is no such third-party invite", 5)
	}
	if promise.Sender != e.Sender {
		return no("the third-party invite is another user's", 6)
	}
	if !signedByAny(invite["signed"], publicKeys(promise.Content)) {
		return no("no signature is by a key of the third-party invite", 8)
	}
	return nil
}

// publicKeys are the keys of an m.room.third_party_invite, each once.
func publicKeys(content json.RawMessage) []sign.PublicKey {
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil {
		return nil
	}
	texts := []string{stringMember(members, "public_key")}
	var list []map[string]json.RawMessage
	if json.Unmarshal(members["public_keys"], &list) == nil {
		for _, entry := range list {
			texts = append(texts, stringMember(entry, "public_key"))
		}
	}
	seen := make(map[string]bool)
	var keys []sign.PublicKey
	for _, text := range texts {
		if seen[text] {
			continue
		}
		seen[text] = true
		if key, err := sign.DecodeBase64(text); err == nil && len(key) == 32 {
			keys = append(keys, sign.PublicKey(key))
		}
	}
	return keys
}

func signedByAny(signed json.RawMessage, keys []sign.PublicKey) bool {
	canonical, err := canonicaljson.CanonicalizeLenient(signed)
	if err != nil {
		return false
	}
	message, checks := sign.Message(canonical), 0
	for _, signatures := range canonicaljson.Members(canonicaljson.Get(canonical, "signatures")) {
		for name, value := range canonicaljson.Members(signatures) {
			signature, ok := canonicaljson.String(value)
			if keyID := id.KeyID(name); !ok || keyID.Algorithm() != "ed25519" || keyID.Name() == "" {
				continue
			}
			for _, key := range keys {
				if checks++; checks > maxThirdPartyChecks {
					return false
				}
				if sign.Verify(key, message, signature) == nil {
					return true
				}
			}
		}
	}
	return false
}
