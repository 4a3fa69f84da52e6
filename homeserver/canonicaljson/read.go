package canonicaljson

import (
	"iter"
	"strings"
	"unicode/utf8"
)

// Members goes through the members of an object in canonical form. Keys are given as they stand between
// their quotes: as the form is canonical, a key of plain letters can be compared with them directly.
// It ends early, and never panics, if obj is not an object in canonical form.
func Members(obj []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		if len(obj) == 0 || obj[0] != '{' {
			return
		}
		for pos := 1; pos < len(obj) && obj[pos] == '"'; {
			end := skip(obj, pos)
			if end < 0 || end >= len(obj) || obj[end] != ':' {
				return
			}
			stop := skip(obj, end+1)
			if stop <= end+1 || stop >= len(obj) || !yield(obj[pos+1:end-1], obj[end+1:stop]) || obj[stop] != ',' {
				return
			}
			pos = stop + 1
		}
	}
}

// Elements goes through the elements of an array in canonical form, as Members does with objects.
func Elements(arr []byte) iter.Seq[[]byte] {
	return func(yield func(value []byte) bool) {
		if len(arr) < 2 || arr[0] != '[' || arr[1] == ']' {
			return
		}
		for pos := 1; pos < len(arr); {
			stop := skip(arr, pos)
			if stop <= pos || stop >= len(arr) || !yield(arr[pos:stop]) || arr[stop] != ',' {
				return
			}
			pos = stop + 1
		}
	}
}

// Get is the value of a member of an object in canonical form; nil if there is none. The key is given as
// it stands between its quotes.
func Get(obj []byte, key string) []byte {
	for k, value := range Members(obj) {
		if string(k) == key {
			return value
		}
	}
	return nil
}

// skip is the index behind the value that begins at pos, or negative.
func skip(b []byte, pos int) int {
	depth := 0
	for ; pos < len(b); pos++ {
		switch b[pos] {
		case '"':
			for pos++; pos < len(b) && b[pos] != '"'; pos++ {
				if b[pos] == '\\' {
					pos++
				}
			}
			if depth == 0 {
				return min(pos+1, len(b))
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return pos + 1
			} else if depth < 0 {
				return pos
			}
		case ',', ':':
			if depth == 0 {
				return pos
			}
		}
	}
	return -1
}

// String is the text of a string in canonical form; false if value is anything else.
func String(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return "", false
	}
	return string(unescape(value[1 : len(value)-1])), true
}

// unescape resolves the escapes of a string in canonical form; it returns s itself if there are none.
func unescape(s []byte) []byte {
	for i := range s {
		if s[i] == '\\' {
			return unescapeFrom(s, i)
		}
	}
	return s
}

func unescapeFrom(s []byte, first int) []byte {
	out := append(make([]byte, 0, len(s)), s[:first]...)
	for i := first; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if at := strings.IndexByte(`bfnrt`, s[i]); at >= 0 {
			out = append(out, "\b\f\n\r\t"[at])
		} else if r, ok := hex4(s[i+1:]); ok && s[i] == 'u' {
			out = utf8.AppendRune(out, r)
			i += 4
		} else {
			out = append(out, s[i])
		}
	}
	return out
}

// Commas counts the commas of JSON in any form outside of strings: those in at most two levels of objects and lists, and all.
// So many values and more it has, which bounds what decoding it takes, and counting takes nothing.
func Commas(raw []byte) (shallow, all int) {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			if all++; depth <= 2 {
				shallow++
			}
		}
	}
	return shallow, all
}
