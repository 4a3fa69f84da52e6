package backup

import (
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/wire"
)

func TestBackup(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublicKey(key.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	data, err := public.Encrypt([]byte("a session"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(key.Recovery())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Decrypt(data); err != nil || string(got) != "a session" {
		t.Errorf("%q, %v", got, err)
	}
	other, _ := NewKey()
	if _, err := other.Decrypt(data); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	large := data
	large.Ciphertext = strings.Repeat("A", MaxSession+1)
	if _, err := key.Decrypt(large); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("over the limit: %v", err)
	}
	low := data
	low.Ephemeral = wire.Base64(make([]byte, 32))
	if _, err := key.Decrypt(low); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a key of low order: %v", err)
	}
}

func FuzzDecrypt(f *testing.F) {
	key, _ := NewKey()
	data, _ := key.Public().Encrypt([]byte("a session"))
	f.Add(data.Ephemeral, data.Ciphertext, data.MAC)
	f.Fuzz(func(t *testing.T, ephemeral, ciphertext, mac string) {
		got, err := key.Decrypt(Data{ephemeral, ciphertext, mac})
		if err == nil && len(got) >= len(ciphertext) {
			t.Error("more came out than went in")
		}
	})
}
