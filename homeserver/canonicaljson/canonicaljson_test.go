package canonicaljson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"pgregory.net/rapid"
)

func TestCanonicalize(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ what, in, want string }{ // want is empty where the input is refused
		// Appendices, "Canonical JSON", "Examples".
		{"empty", "{}", `{}`},
		{"two", "{\n \"one\": 1,\n \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"unsorted", `{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{"nested", `{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"medium":"email","address":"john.doe@example.org"},{"medium":"msisdn","address":"123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{"Japanese", `{"a": "日本語"}`, `{"a":"日本語"}`},
		{"Japanese keys", `{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{"escaped Japanese", `{"a": "\u65E5"}`, `{"a":"日"}`},
		{"null", `{"a": null}`, `{"a":null}`},

		{"escapes", `"\b\f\n\r\t\"\\\/\u0008\u000a\u000B\u001f\u0022\u005c\u002f\u007f"`, `"\b\f\n\r\t\"\\/\b\n\u000b\u001f\"\\/` + "\x7f" + `"`},
		{"surrogates", `"\ud83d\ude00"`, `"😀"`},
		{"unpaired surrogate", `"\ud83d"`, ""},
		{"unpaired low surrogate", `"\ude00\ud83d"`, ""},
		{"surrogate and a letter", `"\ud83d\u0041"`, ""},
		{"escaped keys are sorted by character", `{"~":1,"\n":2,"\"":3,"!":4}`, `{"\n":2,"!":4,"\"":3,"~":1}`},
		{"keys beyond the basic plane", `{"\ud83d\ude00":1,"\uffee":2}`, `{"` + "\uffee" + `":2,"😀":1}`},
		{"prefixes", `{"ab":1,"a":2,"a ":3,"":4}`, `{"":4,"a":2,"a ":3,"ab":1}`},
		{"same key", `{"a":1,"a":1}`, ""},
		{"same key apart", `{"b":1,"a":1,"\u0062":1}`, ""},
		{"same key nested", `{"a":{"x":1,"x":2}}`, ""},
		{"largest", `[9007199254740991,-9007199254740991,0]`, `[9007199254740991,-9007199254740991,0]`},
		{"too large", `9007199254740992`, ""},
		{"too small", `-9007199254740992`, ""},
		{"far too large", `99999999999999999999999`, ""},
		{"minus zero", `-0`, ""},
		{"fraction", `1.0`, ""},
		{"exponent", `1e1`, ""},
		{"leading zero", `01`, ""},
		{"lone minus", `-`, ""},
		{"plus", `+1`, ""},
		{"deepest", nested(MaxDepth + 1), nested(MaxDepth + 1)},
		{"too deep", nested(MaxDepth + 2), ""},
		{"invalid UTF-8", "\"\xff\"", ""},
		{"encoded surrogate", "\"\xed\xa0\x80\"", ""},
		{"control character", "\"\n\"", ""},
		{"unknown escape", `"\x"`, ""},
		{"short escape", `"\u12"`, ""},
		{"trailing data", `{} x`, ""},
		{"trailing comma", `[1,]`, ""},
		{"trailing comma in object", `{"a":1,}`, ""},
		{"number as key", `{1:1}`, ""},
		{"nothing", ` `, ""},
		{"unfinished", `{"a":[1`, ""},
		{"word", `nul`, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := Canonicalize([]byte(c.in))
			if string(got) != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%v does not wrap ErrInvalid", err)
			}
			if (Valid([]byte(c.in)) == nil) != (err == nil) {
				t.Error("Valid and Canonicalize differ")
			}
		})
	}
}

func TestCanonicalizeLenient(t *testing.T) {
	for in, want := range map[string]string{
		`{"a": -0, "b": 1e10}`:                     `{"a":0,"b":10000000000}`, // Appendices, last example
		`[1.50,-0.5,5.114698E4]`:                   `[1.50,-0.5,5.114698E4]`,
		`[99999999999999999999,1E+2,-2e1,1e-2]`:    `[99999999999999999999,100,-20,1e-2]`,
		`[9007199254740991e1,1e99,0e99,-0e1,12e0]`: `[9007199254740991e1,1e99,0,0,12]`,
		`[1e99999999999999999999,1.]`:              "",
		`[1e]`:                                     "",
		`{"a":1,"a":2}`:                            "",
	} {
		got, err := CanonicalizeLenient([]byte(in))
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestEncode(t *testing.T) {
	got, err := Encode(struct {
		B string `json:"b"`
		A any    `json:"a"`
	}{"<&>\u2028", map[string]int{"z": 1, "y": 2}})
	if want := `{"a":{"y":2,"z":1},"b":"<&>` + "\u2028" + `"}`; string(got) != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := Encode(1.5); !errors.Is(err, ErrInvalid) {
		t.Errorf("a fraction gave %v", err)
	}
}

func TestRead(t *testing.T) {
	var got []string
	obj := []byte(`{"a":[1,"]",{"x":"\"}"}],"b\n":{},"c":"","d":-1}`)
	for k, v := range Members(obj) {
		got = append(got, string(k), string(v))
	}
	want := []string{"a", `[1,"]",{"x":"\"}"}]`, `b\n`, `{}`, "c", `""`, "d", "-1"}
	if strings.Join(got, " | ") != strings.Join(want, " | ") {
		t.Errorf("members: %q", got)
	}
	got = nil
	for v := range Elements(Get(obj, "a")) {
		got = append(got, string(v))
	}
	if strings.Join(got, " | ") != `1 | "]" | {"x":"\"}"}` {
		t.Errorf("elements: %q", got)
	}
	for range Members([]byte(`{}`)) {
		t.Error("an empty object has a member")
	}
	for range Elements([]byte(`[]`)) {
		t.Error("an empty array has an element")
	}
	if s, ok := String([]byte(`"a\n\"\u001f"`)); !ok || s != "a\n\"\x1f" {
		t.Errorf("got %q, %v", s, ok)
	}
	if _, ok := String([]byte(`1`)); ok {
		t.Error("a number is no string")
	}
}

func TestAppendString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		quoted := AppendString(nil, s)
		again, err := Canonicalize(quoted)
		if err != nil || !bytes.Equal(again, quoted) {
			t.Fatalf("%q is written as %s, canonically %s (%v)", s, quoted, again, err)
		}
		if back, ok := String(quoted); !ok || back != s {
			t.Fatalf("%q came back as %q", s, back)
		}
	})
	if got := AppendString(nil, "a\xffb"); string(got) != "\"a\uFFFDb\"" {
		t.Errorf("invalid UTF-8 gave %q", got)
	}
}

// TestOracle compares with gomatrixserverlib, whose sorting is wrong for keys with escapes.
func TestOracle(t *testing.T) {
	key := rapid.StringMatching(`[a-zé日 ._]{0,6}`)
	scalar := rapid.OneOf(rapid.String().AsAny(), rapid.Int64Range(-MaxInteger, MaxInteger).AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil))
	array := rapid.SliceOfN(scalar, 0, 4).AsAny()
	value := rapid.OneOf(scalar, array, rapid.MapOfN(key, rapid.OneOf(scalar, array), 0, 5).AsAny())
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.MarshalIndent(rapid.MapOfN(key, value, 0, 8).Draw(t, "object"), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		want, err := gomatrixserverlib.CanonicalJSON(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Canonicalize(raw)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %s, %v; want %s", got, err, want)
		}
	})
}

// FuzzCanonicalize: canonical form is valid, means the same, and is its own canonical form.
func FuzzCanonicalize(f *testing.F) {
	for _, s := range []string{`{"b":[1,-0,1e3,"\ud83d\ude00"],"a":{"\n":null}}`, `{"a":1,"a":2}`, "\"\xff\"", `-1.5E+3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for range Members(raw) {
		}
		for range Elements(raw) {
		}
		String(raw)
		lenient, err := CanonicalizeLenient(raw)
		strict, strictErr := Canonicalize(raw)
		if err != nil {
			if strictErr == nil {
				t.Fatal("strict accepts what lenient refuses")
			}
			return
		}
		if strictErr == nil && !bytes.Equal(strict, lenient) {
			t.Fatalf("strict %s, lenient %s", strict, lenient)
		}
		if !json.Valid(lenient) {
			t.Fatalf("invalid: %s", lenient)
		}
		again, err := CanonicalizeLenient(lenient)
		if err != nil || !bytes.Equal(again, lenient) {
			t.Fatalf("%s became %s (%v)", lenient, again, err)
		}
		n := 0
		for range Members(lenient) {
			n++
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(lenient, &object) == nil && len(object) != n {
			t.Fatalf("%s has %d members, not %d", lenient, len(object), n)
		}
	})
}

func BenchmarkCanonicalize(b *testing.B) {
	raw := []byte(`{"type":"m.room.message","room_id":"!x:h","sender":"@alice:example.org","content":{"msgtype":"m.text","body":"` + strings.Repeat("hello ", 30) + `"},"depth":12,"origin_server_ts":1000000}`)
	for b.Loop() {
		if _, err := Canonicalize(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// inside nests objects, out of order, around a long string.
func inside(depth int) []byte {
	text := strings.Repeat("x", 1<<20)
	return []byte(strings.Repeat(`{"b":0,"a":`, depth) + `"` + text + `"` + strings.Repeat(`}`, depth))
}

// TestNestingCostsNothing: what is nested is not moved once for each object around it.
func TestNestingCostsNothing(t *testing.T) {
	took := map[int]time.Duration{1: time.Hour, MaxDepth - 1: time.Hour}
	for range 8 {
		for depth, best := range took {
			raw := inside(depth)
			began := time.Now()
			if _, err := Canonicalize(raw); err != nil {
				t.Fatal(err)
			}
			took[depth] = min(best, time.Since(began))
		}
	}
	if shallow, deep := took[1], took[MaxDepth-1]; deep > 5*shallow {
		t.Errorf("nested in %d objects it takes %v, in one %v", MaxDepth-1, deep, shallow)
	}
}

func TestNestedOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var build func(depth int) (forth, back string)
		build = func(depth int) (string, string) {
			if depth == 0 {
				return "1", "1"
			}
			var forth, back []string
			for i := range rapid.IntRange(0, 3).Draw(t, "members") {
				f, b := build(rapid.IntRange(0, depth-1).Draw(t, "depth"))
				key := string(rune('a'+i)) + `":`
				forth, back = append(forth, `"`+key+f), append([]string{`"` + key + b}, back...)
			}
			list := rapid.Bool().Draw(t, "in a list")
			f, b := "{"+strings.Join(forth, ",")+"}", "{"+strings.Join(back, ",")+"}"
			if list {
				return "[" + f + "," + f + "]", "[" + b + "," + b + "]"
			}
			return f, b
		}
		want, raw := build(6)
		if got, err := Canonicalize([]byte(raw)); err != nil || string(got) != want {
			t.Fatalf("%s became %s, want %s (%v)", raw, got, want, err)
		}
	})
	if _, err := Canonicalize([]byte(`{"b":{"y":1,"x":2,"y":3},"a":0}`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key that occurs twice, nested and apart: %v", err)
	}
}
