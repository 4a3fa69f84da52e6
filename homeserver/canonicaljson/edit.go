package canonicaljson

import (
	"bytes"
	"slices"
)

// Without is an object in canonical form less some members; the result is in canonical form.
func Without(obj []byte, keys ...string) []byte {
	out := append(make([]byte, 0, len(obj)), '{')
	for key, value := range Members(obj) {
		if !slices.Contains(keys, string(key)) {
			out = appendMember(out, key, value)
		}
	}
	return append(out, '}')
}

// With is an object in canonical form with one member added or replaced; the result is in canonical form
// if value is. The key is plain text.
func With(obj []byte, key string, value []byte) []byte {
	quoted := AppendString(nil, key)
	added := quoted[1 : len(quoted)-1]
	out := append(make([]byte, 0, len(obj)+len(quoted)+len(value)+2), '{')
	done := false
	for k, v := range Members(obj) {
		same := bytes.Equal(k, added)
		if !done && (same || CompareKeys(added, k) < 0) {
			out = appendMember(out, added, value)
			done = true
		}
		if !same {
			out = appendMember(out, k, v)
		}
	}
	if !done {
		out = appendMember(out, added, value)
	}
	return append(out, '}')
}

// Merge is an object in canonical form with the members of two, in one pass; both says what stands for a member that both have,
// of the values in a and b.
func Merge(a, b []byte, both func(a, b []byte) []byte) []byte {
	type pair struct{ key, value []byte }
	var left []pair
	for key, value := range Members(a) {
		left = append(left, pair{key, value})
	}
	out := append(make([]byte, 0, len(a)+len(b)+2), '{')
	for key, value := range Members(b) {
		for len(left) > 0 && CompareKeys(left[0].key, key) < 0 {
			out, left = appendMember(out, left[0].key, left[0].value), left[1:]
		}
		if len(left) > 0 && bytes.Equal(left[0].key, key) {
			value, left = both(left[0].value, value), left[1:]
		}
		out = appendMember(out, key, value)
	}
	for _, m := range left {
		out = appendMember(out, m.key, m.value)
	}
	return append(out, '}')
}

func appendMember(dst, key, value []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	dst = append(dst, '"', ':')
	return append(dst, value...)
}
