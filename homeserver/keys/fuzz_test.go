package keys

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

// FuzzIdentity gives identity keys of strangers to the check: what passes is canonical, belongs to the
// device, and merging signatures into it changes nothing else.
func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"user_id":"@a:h","device_id":"D","algorithms":[],"keys":{},"signatures":{}}`), []byte(`{"@a:h":{"ed25519:x":"y"}}`))
	f.Add([]byte(`{"user_id":"@a:h","device_id":"D","algorithms":["x"],"keys":{"a:D":"b"},"signatures":{"@a:h":{"ed25519:D":"s"}},"unsigned":{}}`), []byte(`{"\"":{"\n":""}}`))
	f.Fuzz(func(t *testing.T, raw, signatures []byte) {
		keys, err := checkIdentity(raw, "@a:h", "D")
		if err != nil {
			return
		}
		if again, err := canonicaljson.Canonicalize(keys); err != nil || !bytes.Equal(again, keys) {
			t.Fatalf("%s is not canonical: %v", keys, err)
		}
		if canonicaljson.Get(keys, "unsigned") != nil {
			t.Fatalf("%s has unsigned data", keys)
		}
		more, err := canonicaljson.Canonicalize(signatures)
		var shape map[string]map[string]string
		if err != nil || json.Unmarshal(more, &shape) != nil || shape == nil {
			return
		}
		merged, ok := mergeSignatures(keys, canonicaljson.With(keys, "signatures", more))
		if !ok || !sameSigned(merged, keys) {
			t.Fatalf("merging %s into %s gave %s, %v", more, keys, merged, ok)
		}
		var got struct{ Signatures map[string]map[string]string }
		if err := json.Unmarshal(merged, &got); err != nil {
			t.Fatal(err)
		}
		for signer, of := range shape {
			for key, signature := range of {
				if got.Signatures[signer][key] != signature {
					t.Fatalf("%s lacks the signature of %q by %q", merged, signer, key)
				}
			}
		}
	})
}
