package interop

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestLibolmSAS verifies with a client that has libolm and knows one code only: the old one, whose base64 is wrong, or
// the one that mends it.
func TestLibolmSAS(t *testing.T) {
	p := startPeer(t)
	us, them := verify.Party{User: alice, Device: "OURS"}, verify.Party{User: bob, Device: "THEIRS"}
	for _, c := range []struct{ method, call string }{
		{"hkdf-hmac-sha256", "calculate_mac"},
		{"hkdf-hmac-sha256.v2", "calculate_mac_fixed_base64"},
	} {
		t.Run(c.method, func(t *testing.T) {
			request := fmt.Sprintf(`{"transaction_id":"T","from_device":"THEIRS","methods":["m.sas.v1"],"timestamp":%d}`, time.Now().UnixMilli())
			s, _, err := verify.Accept(us, bob, json.RawMessage(request), time.Now())
			must(t, err)
			handle := func(kind, content string) (answer map[string]any) {
				t.Helper()
				answers, err := s.Handle(kind, json.RawMessage(content))
				must(t, err)
				if len(answers) > 0 {
					must(t, json.Unmarshal(answers[0].Content, &answer))
				}
				return answer
			}
			if accept := handle(verify.TypeStart, fmt.Sprintf(`{"transaction_id":"T","from_device":"THEIRS","method":"m.sas.v1",
				"key_agreement_protocols":["curve25519-hkdf-sha256"],"hashes":["sha256"],"message_authentication_codes":[%q],
				"short_authentication_string":["decimal","emoji"]}`, c.method)); accept["message_authentication_code"] != c.method {
				t.Fatalf("we chose %v", accept)
			}
			sas := p.object("SAS")
			key := handle(verify.TypeKey, fmt.Sprintf(`{"transaction_id":"T","key":%q}`, sas.text("get_pubkey")))["key"]
			sas.call("set_their_key", nil, key)

			mac := func(from, to verify.Party, what, value string) string {
				t.Helper()
				return sas.text(c.call, value, strings.Join([]string{"MATRIX_KEY_VERIFICATION_MAC", string(from.User), string(from.Device),
					string(to.User), string(to.Device), "T", what}, ""))
			}
			own := verify.Keys{"ed25519:OURS": "our device", "ed25519:MASTER": "our master"}
			answers, err := s.Confirm(own, verify.Keys{"ed25519:THEIRS": "their device"})
			must(t, err)
			var proof struct {
				MAC  map[id.KeyID]string
				Keys string
			}
			must(t, json.Unmarshal(answers[0].Content, &proof))
			for key, public := range own {
				if want := mac(us, them, string(key), public); proof.MAC[key] != want {
					t.Errorf("our code of %s is %s, libolm's %s", key, proof.MAC[key], want)
				}
			}
			if want := mac(us, them, "KEY_IDS", "ed25519:MASTER,ed25519:OURS"); proof.Keys != want {
				t.Errorf("our code of the keys is %s, libolm's %s", proof.Keys, want)
			}
			handle(verify.TypeMAC, fmt.Sprintf(`{"transaction_id":"T","keys":%q,"mac":{"ed25519:THEIRS":%q}}`,
				mac(them, us, "KEY_IDS", "ed25519:THEIRS"), mac(them, us, "ed25519:THEIRS", "their device")))
			if !slices.Contains(s.Proven(), "ed25519:THEIRS") {
				t.Errorf("proven are %v", s.Proven())
			}
		})
	}
}
