package attachment

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// TestVectors are from the tests of matrix-encrypt-attachment.
func TestVectors(t *testing.T) {
	for _, c := range []struct{ ciphertext, plaintext, k, iv, hash string }{
		{
			"", "", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA",
			"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		},
		{
			"5xJZTt5cQicm+9f4", "SGVsbG8sIFdvcmxk", "__________________________________________8", "//////////8AAAAAAAAAAA",
			"YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k",
		},
	} {
		f := File{
			V: "v2", Key: JWK{Kty: "oct", Alg: "A256CTR", K: c.k}, IV: c.iv, Hashes: map[string]string{"sha256": c.hash},
		}
		ciphertext, _ := wire.DecodeBase64(c.ciphertext)
		plaintext, _ := wire.DecodeBase64(c.plaintext)
		var got bytes.Buffer
		if err := Decrypt(&got, bytes.NewReader(ciphertext), f); err != nil || !bytes.Equal(got.Bytes(), plaintext) {
			t.Errorf("%x, %v", got.Bytes(), err)
		}
	}
}

func TestFile(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 100_000} {
		plaintext := bytes.Repeat([]byte("x"), n)
		var sealed, opened bytes.Buffer
		f, err := Encrypt(&sealed, bytes.NewReader(plaintext))
		if err != nil {
			t.Fatal(err)
		}
		if iv, _ := wire.DecodeBase64(f.IV); len(iv) != 16 || !bytes.Equal(iv[8:], make([]byte, 8)) {
			t.Errorf("the counter does not begin at zero: %x", iv)
		}
		if err := Decrypt(&opened, bytes.NewReader(sealed.Bytes()), f); err != nil || !bytes.Equal(opened.Bytes(), plaintext) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		opened.Reset()
		changed := append(sealed.Bytes(), 'x')
		if err := Decrypt(&opened, bytes.NewReader(changed), f); !errors.Is(err, ErrHash) || opened.Len() > 0 {
			t.Errorf("a changed file: %v, and %d bytes came out", err, opened.Len())
		}
	}
}

func TestRefusals(t *testing.T) {
	f, err := Encrypt(&bytes.Buffer{}, strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*File){
		"version":   func(f *File) { f.V = "v1" },
		"algorithm": func(f *File) { f.Key.Alg = "A128CTR" },
		"key":       func(f *File) { f.Key.K = "AAAA" },
		"vector":    func(f *File) { f.IV = "AAAA" },
		"no hash":   func(f *File) { f.Hashes = nil },
	} {
		g := f
		change(&g)
		if err := Decrypt(&bytes.Buffer{}, strings.NewReader("text"), g); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzDescription has a hostile description of a file: what does not bear the hash that it gives is never written.
func FuzzDescription(f *testing.F) {
	var sealed bytes.Buffer
	genuine, err := Encrypt(&sealed, strings.NewReader("the file"))
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(genuine)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, sealed.Bytes())
	f.Add([]byte(`{"v":"v2","key":{"kty":"oct","alg":"A256CTR","k":"A"},"iv":"AAAA","hashes":{"sha256":""}}`), []byte{})
	f.Fuzz(func(t *testing.T, description, data []byte) {
		var file File
		if json.Unmarshal(description, &file) != nil {
			return
		}
		var out bytes.Buffer
		err := Decrypt(&out, bytes.NewReader(data), file)
		hash := sha256.Sum256(data)
		switch {
		case err != nil && out.Len() > 0:
			t.Errorf("%d bytes of a refused file were written", out.Len())
		case err == nil && !sameBase64(file.Hashes["sha256"], hash[:]):
			t.Error("a file with another hash was taken")
		}
	})
}

// sameBase64 allows for other spellings of the same bytes.
func sameBase64(text string, want []byte) bool {
	raw, err := wire.DecodeBase64(text)
	return err == nil && bytes.Equal(raw, want)
}
