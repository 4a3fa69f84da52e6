package keyexport

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestVectors are from the tests of matrix-react-sdk, MegolmExportEncryption-test.js. They hold plain text
// where a list of sessions would be.
func TestVectors(t *testing.T) {
	for _, c := range []struct{ plaintext, passphrase, body string }{
		{
			"plain", "password",
			"AXNhbHRzYWx0c2FsdHNhbHSIiIiIiIiIiIiIiIiIiIiIAAAACmIRUW2OjZ3L2l6j9h0lHlV3M2dx\ncissyYBxjsfsAndErh065A8=",
		},
		{
			"Hello, World", "betterpassword",
			"AW1vcmVzYWx0bW9yZXNhbHT//////////wAAAAAAAAAAAAAD6KyBpe1Niv5M5NPm4ZATsJo5nghk\nKYu63a0YQ5DRhUWEKk7CcMkrKnAUiZny",
		},
		{
			strings.Repeat("alphanumerically", 4), "SWORDFISH",
			"AXllc3NhbHR5Z29vZG5lc3P//////////wAAAAAAAAAAAAAD6OIW+Je7gwvjd4kYrb+49gKCfExw\n" +
				"MgJBMD4mrhLkmgAngwR1pHjbWXaoGybtiAYr0moQ93GrBQsCzPbvl82rZhaXO3iH5uHo/RCEpOqp\n" +
				"Pgg29363BGR+/Ripq/VCLKGNbw==",
		},
	} {
		got, err := decrypt([]byte(begin+"\n"+c.body+"\n"+end), c.passphrase)
		if err != nil || string(got) != c.plaintext {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestFile(t *testing.T) {
	sessions := []Session{{
		Algorithm: "m.megolm.v1.aes-sha2", RoomID: "!r:h", SessionID: "id", SessionKey: "key", SenderKey: "sender",
		SenderClaimedKeys: map[string]string{"ed25519": "k"}, ForwardingChain: []string{}, SharedHistory: true,
	}}
	file, err := Seal(sessions, "pass phrase")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(append([]byte("some text\r\n"), bytes.ReplaceAll(file, []byte("\n"), []byte("\r\n"))...), "pass phrase"); err != nil || !reflect.DeepEqual(got, sessions) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Open(file, "Pass phrase"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	lines := strings.Split(string(file), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-2], ""))
	if err != nil {
		t.Fatal(err)
	}
	if raw[25]&0x80 != 0 {
		t.Error("bit 63 of the initialization vector is set")
	}
	wrap := func(raw []byte) []byte {
		return []byte(begin + "\n" + base64.StdEncoding.EncodeToString(raw) + "\n" + end + "\n")
	}
	raw[40] ^= 1
	if _, err := Open(wrap(raw), "pass phrase"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a changed file: %v", err)
	}
	binary.BigEndian.PutUint32(raw[33:], MaxRounds+1)
	if _, err := Open(wrap(raw), "pass phrase"); !errors.Is(err, ErrMalformed) {
		t.Errorf("rounds over the limit: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte(begin), []byte(begin + end), wrap(raw[:headerSize+macSize-1])} {
		if _, err := Open(bad, "x"); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	raw := make([]byte, headerSize+macSize)
	raw[0] = 1
	binary.BigEndian.PutUint32(raw[33:], 1)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= headerSize {
			copy(raw[33:36], "\x00\x00\x00") // few rounds: what is slow by design would keep the fuzzer waiting
		}
		file := []byte(begin + base64.StdEncoding.EncodeToString(raw) + end)
		if _, err := Open(file, "p"); err == nil {
			t.Error("a file opens that nobody sealed")
		}
		if got, err := unwrap(file); err == nil && !bytes.Equal(got, raw) {
			t.Error("unwrapping changes the bytes")
		}
	})
}

// FuzzText has what may stand around and between the lines of a file.
func FuzzText(f *testing.F) {
	f.Add([]byte(begin + "\nAXNh\n" + end))
	f.Add([]byte(end + begin))
	f.Add([]byte(begin + begin + "=\r\n" + end))
	f.Fuzz(func(t *testing.T, file []byte) {
		raw, err := unwrap(file)
		if err == nil && len(raw) < headerSize+macSize {
			t.Errorf("%d bytes are taken for a file", len(raw))
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
}
