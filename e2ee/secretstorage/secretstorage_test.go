package secretstorage

import (
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/recoverykey"
)

func TestSecrets(t *testing.T) {
	key, d, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.Open(key.Recovery())
	if err != nil || opened != key {
		t.Fatal(err)
	}
	other, _, _ := NewKey()
	if _, err := d.Open(other.Recovery()); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := d.Open("a passphrase"); !errors.Is(err, recoverykey.ErrInvalid) {
		t.Errorf("a passphrase where none was set: %v", err)
	}
	s, err := key.Encrypt(Master, []byte("the secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Decrypt(Master, s); err != nil || string(got) != "the secret" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := key.Decrypt(SelfSigning, s); !errors.Is(err, ErrKey) {
		t.Errorf("a secret under another name: %v", err)
	}
	s.Ciphertext = strings.Repeat("A", maxSecret+1)
	if _, err := key.Decrypt(Master, s); !errors.Is(err, ErrMalformed) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestPassphrase(t *testing.T) {
	d := Description{Algorithm: Algorithm, Passphrase: &Passphrase{Algorithm: "m.pbkdf2", Salt: "MmMsAlty", Iterations: 10, Bits: 256}}
	key, err := d.Open("pass")
	if err != nil {
		t.Fatal(err)
	}
	check, err := key.Encrypt("", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	d.IV, d.MAC = check.IV+"==", check.MAC+"=" // some clients pad
	if again, err := d.Open("pass"); err != nil || again != key {
		t.Error(err)
	}
	if _, err := d.Open("Pass"); !errors.Is(err, ErrKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	d.Passphrase.Iterations = maxIterations + 1
	if _, err := d.Open("pass"); !errors.Is(err, ErrMalformed) {
		t.Errorf("iterations over the limit: %v", err)
	}
}

// FuzzSecrets has what a server may put into account data.
func FuzzSecrets(f *testing.F) {
	key, d, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	s, err := key.Encrypt(Master, []byte("the secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.IV, s.Ciphertext, s.MAC, 1)
	f.Add(d.IV, "", d.MAC, -1)
	f.Fuzz(func(t *testing.T, iv, ciphertext, mac string, iterations int) {
		if got, err := key.Decrypt(Master, Secret{iv, ciphertext, mac}); err == nil && string(got) != "the secret" {
			t.Error("a secret that nobody stored")
		}
		if iterations > 100 {
			iterations += maxIterations // slow by design, or refused
		}
		hostile := Description{Algorithm: Algorithm, IV: iv, MAC: mac, Passphrase: &Passphrase{Algorithm: "m.pbkdf2", Salt: ciphertext, Iterations: iterations}}
		if iv != "" && mac != "" {
			if _, err := hostile.Open("pass"); err == nil {
				t.Error("a passphrase fits what nobody made with it")
			}
		}
	})
}
