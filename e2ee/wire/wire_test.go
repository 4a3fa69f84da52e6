package wire

import (
	"bytes"
	"errors"
	"testing"
)

func TestBase64(t *testing.T) {
	// Appendices, "Unpadded Base64".
	for plain, coded := range map[string]string{
		"": "", "f": "Zg", "fo": "Zm8", "foo": "Zm9v", "foob": "Zm9vYg", "fooba": "Zm9vYmE", "foobar": "Zm9vYmFy",
	} {
		if got := Base64([]byte(plain)); got != coded {
			t.Errorf("%q became %q", plain, got)
		}
		for _, form := range []string{coded, coded + "===="[:(4-len(coded)%4)%4]} {
			if b, err := DecodeBase64(form); err != nil || string(b) != plain {
				t.Errorf("%q: %q, %v", form, b, err)
			}
		}
	}
	if _, err := DecodeBase64("a-_b"); !errors.Is(err, ErrBase64) {
		t.Error("the alphabet for URLs was taken")
	}
	if _, err := DecodeKey(Base64(make([]byte, 33))); err == nil {
		t.Error("a key of 33 bytes was taken")
	}
}

func TestFields(t *testing.T) {
	payload := AppendBytes(AppendInt(nil, 0x10, 300), 0x22, []byte("text"))
	if want := []byte("\x10\xac\x02\x22\x04text"); !bytes.Equal(payload, want) {
		t.Fatalf("%x", payload)
	}
	var again []byte
	err := Fields(payload, func(f Field) error {
		if f.Tag&7 == 0 {
			again = AppendInt(again, byte(f.Tag), f.Int)
		} else {
			again = AppendBytes(again, byte(f.Tag), f.Bytes)
		}
		return nil
	})
	if err != nil || !bytes.Equal(again, payload) {
		t.Errorf("%x, %v", again, err)
	}
	for _, bad := range []string{"\x10", "\x22\x05text", "\x11\x00", "\x80", "\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		if err := Fields([]byte(bad), func(Field) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func TestCipher(t *testing.T) {
	for n := range 40 {
		c := NewCipher([]byte("secret"), "TEST")
		plain := bytes.Repeat([]byte{7}, n)
		sealed := c.Encrypt(plain)
		if err := c.CheckMAC(sealed, c.MAC(sealed)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decrypt(sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %x, %v", n, got, err)
		}
		sealed[0] ^= 1
		if err := c.CheckMAC(sealed, NewCipher([]byte("secret"), "TEST").MAC(plain)); !errors.Is(err, ErrMAC) {
			t.Errorf("a wrong MAC: %v", err)
		}
	}
	for _, n := range []int{0, 1, 15, 17} {
		if _, err := NewCipher(nil, "").Decrypt(make([]byte, n)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes of ciphertext: %v", n, err)
		}
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("\x10\xac\x02\x22\x04text"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		total := 0
		err := Fields(payload, func(f Field) error {
			total += 2 + len(f.Bytes)
			return nil
		})
		if err == nil && total > len(payload) {
			t.Errorf("%d bytes of fields in %d", total, len(payload))
		}
	})
}
