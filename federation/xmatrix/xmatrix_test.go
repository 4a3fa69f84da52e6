package xmatrix

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

var sig = strings.Repeat("A", 86) // base64 of 64 zero bytes

func TestParse(t *testing.T) {
	full := Header{Origin: "origin.hs.example.com", Destination: "destination.hs.example.com", Key: "ed25519:key1", Signature: sig}
	old := full
	old.Destination = ""
	ports := Header{Origin: "[::1]:8448", Destination: "b:1", Key: "ed25519:a", Signature: strings.Repeat("+/", 43)}
	for _, c := range []struct {
		what, header string
		want         Header
	}{
		{"the specification's example", `X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="` + sig + `"`, full},
		{"without destination", `X-Matrix origin="origin.hs.example.com",key="ed25519:key1",sig="` + sig + `"`, old},
		{"without quotes", `X-Matrix origin=origin.hs.example.com,destination=destination.hs.example.com,key=ed25519:key1,sig=` + sig, full},
		{"padded, without quotes", `X-Matrix origin=origin.hs.example.com,key=ed25519:key1,sig=` + sig + `==`, Header{Origin: old.Origin, Key: old.Key, Signature: sig + "=="}},
		{"other case, order and space", "x-matrix \t  SIG=\"" + sig + "\" ,\t Key = ed25519:key1 , , ORIGIN=\"origin.hs.example.com\",", old},
		{"escapes", `X-Matrix origin="origin\.hs.example.com",key="ed25519\:key1",sig="` + sig + `"`, old},
		{"unknown parameters", `X-Matrix new="a \"b\", c=d",origin=origin.hs.example.com,key=ed25519:key1,sig=` + sig + `,empty=,new=2`, old},
		{"ports and base64 without quotes", `X-Matrix origin=[::1]:8448,destination=b:1,key=ed25519:a,sig=` + ports.Signature, ports},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got, err := Parse(c.header); err != nil || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseRefusals(t *testing.T) {
	const start = `X-Matrix origin=a,key=ed25519:k,sig=`
	good := start + sig
	longest := good + `,x="` + strings.Repeat("x", MaxHeaderLength-len(good)-len(`,x=""`)) + `"`
	most := good + strings.Repeat(",a=b", MaxParameters-3)
	for _, h := range []string{good, longest, most} {
		if _, err := Parse(h); err != nil {
			t.Fatalf("%.60s...: %v", h, err)
		}
	}
	for what, h := range map[string]string{
		"too long":                 longest + " ",
		"too many parameters":      most + ",a=b",
		"no parameters":            "X-Matrix ",
		"no origin":                `X-Matrix key=ed25519:k,sig=` + sig,
		"no key":                   `X-Matrix origin=a,sig=` + sig,
		"no signature":             `X-Matrix origin=a,key=ed25519:k`,
		"origin twice":             good + `,origin=b`,
		"signature twice":          good + `,sig=` + sig,
		"empty destination":        good + `,destination=`,
		"invalid origin":           `X-Matrix origin="a b",key=ed25519:k,sig=` + sig,
		"invalid destination":      good + `,destination="b/c"`,
		"other algorithm":          `X-Matrix origin=a,key=rsa:k,sig=` + sig,
		"key without name":         `X-Matrix origin=a,key="ed25519:",sig=` + sig,
		"quote in a key":           `X-Matrix origin=a,key="ed25519:\"",sig=` + sig,
		"short signature":          start + sig[1:],
		"signature not in base64":  start + strings.Repeat("-", 86),
		"unclosed quotes":          good + `,x="`,
		"unclosed escape":          good + `,x="\`,
		"control character":        good + ",x=\"\x01\"",
		"no comma":                 `X-Matrix origin="a"key=ed25519:k,sig=` + sig,
		"space instead of a comma": `X-Matrix origin=a key=ed25519:k,sig=` + sig,
		"no value":                 good + `,x`,
		"no name":                  good + `,=x`,
	} {
		if got, err := Parse(h); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v", what, got, err)
		}
	}
	for _, h := range []string{"", "Bearer abc", "X-Matrix", "X-Matrixorigin=a", "X-Matri x"} {
		if _, err := Parse(h); !errors.Is(err, ErrOtherScheme) {
			t.Errorf("%q: %v", h, err)
		}
	}
}

// The same object, signed as the specification says it: by the algorithm for signed JSON.
func TestSignIsSignedJSON(t *testing.T) {
	key := newKey(t)
	for _, content := range []string{"", `{}`, `{ "b": "\u00e9<", "a": [1, {"z": null, "y": 1}] }`} {
		object := map[string]any{"method": "PUT", "uri": "/_matrix/a%2Fb?c=d&e=é", "origin": "one", "destination": "two:8448"}
		r := Request{Method: "PUT", URI: "/_matrix/a%2Fb?c=d&e=é"}
		if content != "" {
			r.Content = []byte(content)
			object["content"] = json.RawMessage(content)
		}
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := sign.JSON(raw, "one", key)
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Signatures map[string]map[string]string `json:"signatures"`
		}
		if err := json.Unmarshal(signed, &want); err != nil {
			t.Fatal(err)
		}
		header, err := Sign(r, "one", "two:8448", key)
		if err != nil {
			t.Fatal(err)
		}
		h, err := Parse(header)
		if err != nil || h.Signature != want.Signatures["one"][string(key.ID)] {
			t.Errorf("%s: got %+v, %v", content, h, err)
		}
	}
}

func TestVerify(t *testing.T) {
	key, other := newKey(t), newKey(t)
	r := Request{Method: "PUT", URI: "/x?y=z", Content: []byte(`{"n":1.50,"a":"b"}`)}
	header, err := Sign(r, "one", "two", key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(h, r, "two", key.Public()); err != nil {
		t.Fatal(err)
	}
	if err := Verify(h, Request{Method: "PUT", URI: "/x?y=z", Content: []byte(` {"a" : "b", "n":1.50}`)}, "two", key.Public()); err != nil {
		t.Errorf("the same JSON in other words: %v", err)
	}
	for what, change := range map[string]func(h *Header, r *Request){
		"method":             func(_ *Header, r *Request) { r.Method = "POST" },
		"path":               func(_ *Header, r *Request) { r.URI = "/X?y=z" },
		"query":              func(_ *Header, r *Request) { r.URI = "/x" },
		"content":            func(_ *Header, r *Request) { r.Content = []byte(`{"n":1.5,"a":"b"}`) },
		"no content":         func(_ *Header, r *Request) { r.Content = nil },
		"origin":             func(h *Header, _ *Request) { h.Origin = "three" },
		"destination gone":   func(h *Header, _ *Request) { h.Destination = "" },
		"signature":          func(h *Header, _ *Request) { h.Signature = sig },
		"signature not read": func(h *Header, _ *Request) { h.Signature = "?" },
	} {
		h, r := h, r
		change(&h, &r)
		if err := Verify(h, r, "two", key.Public()); !errors.Is(err, sign.ErrBadSignature) {
			t.Errorf("%s changed: %v", what, err)
		}
	}
	if err := Verify(h, r, "two", other.Public()); !errors.Is(err, sign.ErrBadSignature) {
		t.Errorf("other key: %v", err)
	}
	if err := Verify(h, r, "three", key.Public()); !errors.Is(err, ErrOtherDestination) {
		t.Errorf("other server: %v", err)
	}
	r.Content = []byte(`{`)
	if err := Verify(h, r, "two", key.Public()); !errors.Is(err, canonicaljson.ErrInvalid) {
		t.Errorf("broken content: %v", err)
	}
}

// Servers older than version 1.3 of the specification sign no destination.
func TestVerifyWithoutDestination(t *testing.T) {
	key := newKey(t)
	header, err := Sign(Request{Method: "GET", URI: "/"}, "one", "", key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(h, Request{Method: "GET", URI: "/"}, "two", key.Public()); err != nil {
		t.Error(err)
	}
}

func newKey(t *testing.T) sign.Key {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What parses is written so that it parses to the same again.
func FuzzParse(f *testing.F) {
	f.Add(`X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="` + sig + `"`)
	f.Add(`x-matrix origin=[::1]:1 , KEY = "ed25519\:a",sig=` + sig + `==`)
	f.Fuzz(func(t *testing.T, header string) {
		h, err := Parse(header)
		if err != nil {
			return
		}
		if again, err := Parse(h.String()); err != nil || again != h {
			t.Errorf("%q gave %+v, then %+v, %v", header, h, again, err)
		}
		if _, err := id.ParseServerName(string(h.Origin)); err != nil {
			t.Errorf("%q gave the origin %q", header, h.Origin)
		}
	})
}
