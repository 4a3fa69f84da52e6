package keyring

import (
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// FuzzParseList: a list that is accepted names a server, has a key with which it is signed, and none that is valid
// beyond the limit.
func FuzzParseList(f *testing.F) {
	ring := &Keyring{Server: "us.test"}
	var err error
	if ring.Key, err = sign.NewKey(); err != nil {
		f.Fatal(err)
	}
	own, err := ring.Own()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(own))
	f.Add([]byte(`{"server_name":"us.test","valid_until_ts":1,"verify_keys":{"ed25519:a":{"key":""}}}`))
	now := time.Now()
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseList(raw, now)
		if err != nil {
			return
		}
		if _, err := id.ParseServerName(string(l.Server)); err != nil || len(l.keys) == 0 {
			t.Fatalf("accepted %+v", l)
		}
		proved := false
		for _, k := range l.keys {
			proved = proved || !k.Expired && sign.VerifyJSON(raw, string(l.Server), k.KeyID, k.Public) == nil
			if k.ValidUntil > now.Add(maxValidity).UnixMilli() {
				t.Errorf("%s is valid until %d", k.KeyID, k.ValidUntil)
			}
		}
		if !proved {
			t.Error("no key of the list has signed it")
		}
	})
}
