package canonicaljson

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestEdit(t *testing.T) {
	for _, c := range []struct{ what, got, want string }{
		{"without", string(Without([]byte(`{"a":1,"b":2,"c":3}`), "a", "c", "x")), `{"b":2}`},
		{"without all", string(Without([]byte(`{"a":1}`), "a")), `{}`},
		{"with in nothing", string(With(nil, "a", []byte("1"))), `{"a":1}`},
		{"with first", string(With([]byte(`{"b":2}`), "a", []byte("1"))), `{"a":1,"b":2}`},
		{"with last", string(With([]byte(`{"b":2}`), "c", []byte("3"))), `{"b":2,"c":3}`},
		{"with again", string(With([]byte(`{"a":1,"b":2,"c":3}`), "b", []byte(`{}`))), `{"a":1,"b":{},"c":3}`},
		{"with an escape", string(With([]byte(`{"!":2}`), "\n", []byte("1"))), `{"\n":1,"!":2}`},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, c.got, c.want)
		}
	}
}

func TestWithKeepsTheForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := map[string]any{}
		edited := []byte("{}")
		for _, key := range rapid.SliceOfN(rapid.String(), 0, 8).Draw(t, "keys") {
			object[key] = key
			edited = With(edited, key, AppendString(nil, key))
		}
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := Canonicalize(raw); err != nil || string(edited) != string(want) {
			t.Fatalf("got %s, want %s (%v)", edited, want, err)
		}
	})
}

func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.String(), 0, 8)
		a, b, want := []byte("{}"), []byte("{}"), []byte("{}")
		for _, key := range keys.Draw(t, "a") {
			a, want = With(a, key, []byte("1")), With(want, key, []byte("1"))
		}
		for _, key := range keys.Draw(t, "b") {
			b = With(b, key, []byte("2"))
			quoted := AppendString(nil, key)
			if Get(a, string(quoted[1:len(quoted)-1])) != nil {
				want = With(want, key, []byte("[1,2]"))
			} else {
				want = With(want, key, []byte("2"))
			}
		}
		got := Merge(a, b, func(a, b []byte) []byte { return []byte("[" + string(a) + "," + string(b) + "]") })
		if string(got) != string(want) {
			t.Fatalf("merged %s and %s to %s, want %s", a, b, got, want)
		}
	})
}
