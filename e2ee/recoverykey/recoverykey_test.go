package recoverykey

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// Alice's private key in RFC 7748, section 6.1, and the form that matrix-js-sdk's tests have for it.
const (
	vectorHex  = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
	vectorText = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d"
)

func TestVector(t *testing.T) {
	key, err := Decode("\n" + strings.ReplaceAll(vectorText, " ", "\t "))
	if err != nil || hex.EncodeToString(key[:]) != vectorHex {
		t.Errorf("%x, %v", key, err)
	}
	if got := Encode(key); got != vectorText {
		t.Error(got)
	}
}

func TestRefusals(t *testing.T) {
	good := Encode([Size]byte{1, 2, 3})
	for i := range good {
		if good[i] == ' ' {
			continue
		}
		bad := good[:i] + string(alphabet[(strings.IndexByte(alphabet, good[i])+1)%58]) + good[i+1:]
		if _, err := Decode(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("a mistyped character at %d is not seen: %v", i, err)
		}
	}
	for _, bad := range []string{"", "0", "EsTc", good + "1", strings.Repeat("1", maxText+1)} {
		if _, err := Decode(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(vectorText)
	f.Fuzz(func(t *testing.T, text string) {
		key, err := Decode(text)
		if err != nil {
			return
		}
		if again, err := Decode(Encode(key)); err != nil || again != key {
			t.Errorf("%q is not the same when written again", text)
		}
	})
}
