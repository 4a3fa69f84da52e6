package canonicaljson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
func Canonicalize(raw []byte) ([]byte, error) { return canonicalize(raw, true) }

// CanonicalizeLenient is for events of room versions 1 to 5, which have numbers that canonical JSON has
// not. It leaves fractions and large integers as they are, writes -0 as 0 and resolves exponents of whole
// numbers where the result is within ±MaxInteger; in everything else it is Canonicalize.
func CanonicalizeLenient(raw []byte) ([]byte, error) { return canonicalize(raw, false) }

// Valid reports why Canonicalize would refuse the JSON; nil if it would not.
func Valid(raw []byte) error {
	_, err := Canonicalize(raw)
	return err
}

func canonicalize(raw []byte, strict bool) ([]byte, error) {
	c := canonicalizer{src: raw, strict: strict, dst: make([]byte, 0, len(raw)), spans: make([]span, 0, 32)}
	if err := c.value(0); err != nil {
		return nil, err
	}
	if c.skipSpace(); c.pos < len(c.src) {
		return nil, c.refuse("data after the value")
	}
	return c.dst, nil
}

// canonicalizer copies src to dst in one pass. An object whose keys turn out not to be in order is
// rearranged in dst when it ends.
type canonicalizer struct {
	src     []byte
	pos     int
	dst     []byte
	spans   []span // members of the objects that are open, innermost last
	scratch []byte
	strict  bool
}

// span is where a member of an object stands in dst: key with its quotes, and up to where its value goes.
type span struct{ start, keyEnd, end int }

func (c *canonicalizer) refuse(why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrInvalid, why, c.pos)
}

func (c *canonicalizer) skipSpace() {
	for c.pos < len(c.src) {
		switch c.src[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

// next is the next byte that is no white space, which is not consumed; 0 at the end.
func (c *canonicalizer) next() byte {
	if c.skipSpace(); c.pos < len(c.src) {
		return c.src[c.pos]
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
	c.dst = append(c.dst, '{')
	base, sorted := len(c.spans), true
	if c.next() != '}' {
		for {
			s, err := c.member(depth)
			if err != nil {
				return err
			}
			if len(c.spans) > base {
				switch order := c.compare(c.spans[len(c.spans)-1], s); {
				case order == 0:
					return c.refuse("a key that occurs twice")
				case order > 0:
					sorted = false
				}
			}
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
	if !sorted {
		if err := c.rearrange(c.spans[base:]); err != nil {
			return err
		}
	}
	c.spans = c.spans[:base]
	c.dst = append(c.dst, '}')
	return nil
}

func (c *canonicalizer) member(depth int) (span, error) {
	s := span{start: len(c.dst)}
	if c.next() != '"' {
		return s, c.refuse("no key")
	}
	if err := c.str(); err != nil {
		return s, err
	}
	s.keyEnd = len(c.dst)
	if c.next() != ':' {
		return s, c.refuse("no colon")
	}
	c.pos++
	c.dst = append(c.dst, ':')
	err := c.value(depth + 1)
	s.end = len(c.dst)
	return s, err
}

// rearrange sorts the members of the object that has just been written.
func (c *canonicalizer) rearrange(members []span) error {
	start := members[0].start
	slices.SortFunc(members, c.compare)
	c.scratch = c.scratch[:0]
	for i, m := range members {
		if i > 0 {
			if c.compare(members[i-1], m) == 0 {
				return c.refuse("a key that occurs twice")
			}
			c.scratch = append(c.scratch, ',')
		}
		c.scratch = append(c.scratch, c.dst[m.start:m.end]...)
	}
	copy(c.dst[start:], c.scratch)
	return nil
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
