package canonicaljson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxDepth is how deeply objects and arrays may be nested.
	MaxDepth = 512
	// MaxInteger is the largest integer that every JSON library represents exactly; the smallest is its negative.
	MaxInteger = 1<<53 - 1
)

// ErrInvalid is wrapped by every refusal of this package.
var ErrInvalid = errors.New("invalid JSON")

// Encode is the canonical JSON of a Go value, as encoding/json sees it.
func Encode(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding canonical JSON: %w", err)
	}
	return Canonicalize(raw)
}

// Canonicalize brings JSON into canonical form. It refuses invalid UTF-8, unpaired surrogates, keys that
// occur twice, fractions, exponents, -0, integers outside ±MaxInteger and nesting beyond MaxDepth. The
// result does not share memory with raw.
func Canonicalize(raw []byte) ([]byte, error) { return Form(raw, true) }

// CanonicalizeLenient is for events of room versions 1 to 5, which have numbers that canonical JSON has
// not. It leaves fractions and large integers as they are, writes -0 as 0 and resolves exponents of whole
// numbers where the result is within ±MaxInteger; in everything else it is Canonicalize.
func CanonicalizeLenient(raw []byte) ([]byte, error) { return Form(raw, false) }

// Form is Canonicalize if strict, else CanonicalizeLenient.
func Form(raw []byte, strict bool) ([]byte, error) {
	c := canonicalizer{src: raw, strict: strict, dst: make([]byte, 0, len(raw)), spans: make([]span, 0, 32)}
	if err := c.value(0); err != nil {
		return nil, err
	}
	if c.next(); c.pos < len(c.src) {
		return nil, c.refuse("data after the value")
	}
	if len(c.unsorted) > 0 {
		return c.arranged(), nil
	}
	return c.dst, nil
}

// Valid reports why Canonicalize would refuse the JSON; nil if it would not.
func Valid(raw []byte) error {
	_, err := Canonicalize(raw)
	return err
}

// AppendString writes a string in canonical form, quotes included. What is not UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0
	for i := range len(s) {
		if b := s[i]; b < ' ' || b == '"' || b == '\\' {
			dst = append(dst, strings.ToValidUTF8(s[plain:i], "\uFFFD")...)
			dst = appendRune(dst, rune(b))
			plain = i + 1
		}
	}
	dst = append(dst, strings.ToValidUTF8(s[plain:], "\uFFFD")...)
	return append(dst, '"')
}

// canonicalizer copies src to dst in one pass. If the keys of an object turn out not to be in order, all are put in order
// at the end in one more, however deeply they are nested.
type canonicalizer struct {
	src      []byte
	pos      int
	dst      []byte
	spans    []span // members of the objects that are open, innermost last
	unsorted []unsorted
	strict   bool
}

// unsorted is an object in dst whose members stand in another order than they should: where it begins and ends, and its
// members as they should follow each other.
type unsorted struct {
	start, end int
	members    []span
}

// span is where a member of an object stands in dst: key with its quotes, and up to where its value goes.
type span struct{ start, keyEnd, end int }

func (c *canonicalizer) refuse(why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrInvalid, why, c.pos)
}

// next is the next byte that is no white space, which is not consumed; 0 at the end.
func (c *canonicalizer) next() byte {
	for c.pos < len(c.src) {
		switch b := c.src[c.pos]; b {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return b
		}
	}
	return 0
}

func (c *canonicalizer) value(depth int) error {
	if depth > MaxDepth {
		return c.refuse("too deeply nested")
	}
	switch b := c.next(); {
	case b == '{':
		return c.object(depth)
	case b == '[':
		return c.array(depth)
	case b == '"':
		return c.str()
	case b == '-' || b >= '0' && b <= '9':
		return c.number()
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	default:
		return c.refuse("no value")
	}
}

// str copies a string, resolving the escapes that canonical JSON does not need.
func (c *canonicalizer) str() error {
	start := len(c.dst)
	c.pos++
	c.dst = append(c.dst, '"')
	for {
		plain := c.pos
		for c.pos < len(c.src) && c.src[c.pos] >= ' ' && c.src[c.pos] != '"' && c.src[c.pos] != '\\' {
			c.pos++
		}
		c.dst = append(c.dst, c.src[plain:c.pos]...)
		switch {
		case c.pos == len(c.src):
			return c.refuse("unfinished string")
		case c.src[c.pos] == '"':
			c.pos++
			if !utf8.Valid(c.dst[start:]) {
				return c.refuse("invalid UTF-8")
			}
			c.dst = append(c.dst, '"')
			return nil
		case c.src[c.pos] == '\\':
			if err := c.escape(); err != nil {
				return err
			}
		default:
			return c.refuse("a control character in a string")
		}
	}
}

func (c *canonicalizer) literal(word string) error {
	if !bytes.HasPrefix(c.src[c.pos:], []byte(word)) {
		return c.refuse("no value")
	}
	c.pos += len(word)
	c.dst = append(c.dst, word...)
	return nil
}

func (c *canonicalizer) array(depth int) error {
	c.pos++
	c.dst = append(c.dst, '[')
	if c.next() != ']' {
		for {
			if err := c.value(depth + 1); err != nil {
				return err
			}
			if c.next() != ',' {
				break
			}
			c.pos++
			c.dst = append(c.dst, ',')
		}
	}
	if c.next() != ']' {
		return c.refuse("unfinished array")
	}
	c.pos++
	c.dst = append(c.dst, ']')
	return nil
}

func (c *canonicalizer) object(depth int) error {
	c.pos++
	start := len(c.dst)
	c.dst = append(c.dst, '{')
	base, sorted := len(c.spans), true
	var last []byte // the key before
	if c.next() != '}' {
		for {
			s := span{start: len(c.dst)}
			if c.next() != '"' {
				return c.refuse("no key")
			}
			if err := c.str(); err != nil {
				return err
			}
			s.keyEnd = len(c.dst)
			key := c.dst[s.start+1 : s.keyEnd-1]
			if len(c.spans) > base {
				switch order := CompareKeys(last, key); {
				case order == 0:
					return c.refuse("a key that occurs twice")
				case order > 0:
					sorted = false
				}
			}
			last = key
			if c.next() != ':' {
				return c.refuse("no colon")
			}
			c.pos++
			c.dst = append(c.dst, ':')
			if err := c.value(depth + 1); err != nil {
				return err
			}
			s.end = len(c.dst)
			c.spans = append(c.spans, s)
			if c.next() != ',' {
				break
			}
			c.pos++
			c.dst = append(c.dst, ',')
		}
	}
	if c.next() != '}' {
		return c.refuse("unfinished object")
	}
	c.pos++
	c.dst = append(c.dst, '}')
	if !sorted {
		members := slices.Clone(c.spans[base:])
		slices.SortFunc(members, c.compare)
		for i, m := range members[1:] {
			if c.compare(members[i], m) == 0 {
				return c.refuse("a key that occurs twice")
			}
		}
		c.unsorted = append(c.unsorted, unsorted{start, len(c.dst), members})
	}
	c.spans = c.spans[:base]
	return nil
}

// arranged is dst with all members in order.
func (c *canonicalizer) arranged() []byte {
	slices.SortFunc(c.unsorted, func(a, b unsorted) int { return a.start - b.start })
	return c.arrange(make([]byte, 0, len(c.dst)), 0, len(c.dst))
}

// arrange appends a part of dst to out. Each byte is copied once, since an object that is out of order is looked for where
// it begins and not within.
func (c *canonicalizer) arrange(out []byte, from, to int) []byte {
	for {
		i, _ := slices.BinarySearchFunc(c.unsorted, from, func(o unsorted, at int) int { return o.start - at })
		if i == len(c.unsorted) || c.unsorted[i].start >= to {
			return append(out, c.dst[from:to]...)
		}
		o := &c.unsorted[i]
		out = append(out, c.dst[from:o.start+1]...)
		for n, m := range o.members {
			if n > 0 {
				out = append(out, ',')
			}
			out = c.arrange(out, m.start, m.end)
		}
		out = append(out, '}')
		from = o.end
	}
}

// compare orders two members by the code points of their keys, which is the order of their UTF-8 bytes.
func (c *canonicalizer) compare(a, b span) int {
	return CompareKeys(c.dst[a.start+1:a.keyEnd-1], c.dst[b.start+1:b.keyEnd-1])
}

// CompareKeys orders two keys as canonical JSON does. They are given as they stand between their quotes.
func CompareKeys(a, b []byte) int {
	if bytes.IndexByte(a, '\\') >= 0 || bytes.IndexByte(b, '\\') >= 0 {
		return bytes.Compare(unescape(a), unescape(b))
	}
	return bytes.Compare(a, b)
}
