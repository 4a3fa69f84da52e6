package canonicaljson

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// escape reads what follows a backslash.
func (c *canonicalizer) escape() error {
	if c.pos+1 >= len(c.src) {
		return c.refuse("unfinished string")
	}
	switch b := c.src[c.pos+1]; b {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		c.dst = append(c.dst, '\\', b)
	case '/':
		c.dst = append(c.dst, '/')
	case 'u':
		r, ok := hex4(c.src[c.pos+2:])
		if !ok {
			return c.refuse("an unfinished escape")
		}
		if utf16.IsSurrogate(r) {
			c.pos += 6
			if !bytes.HasPrefix(c.src[c.pos:], []byte(`\u`)) {
				return c.refuse("an unpaired surrogate")
			}
			low, ok := hex4(c.src[c.pos+2:])
			if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
				return c.refuse("an unpaired surrogate")
			}
		}
		c.dst = appendRune(c.dst, r)
		c.pos += 4
	default:
		return c.refuse("an unknown escape")
	}
	c.pos += 2
	return nil
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, d := range b[:4] {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// appendRune writes a character as it stands within a canonical string.
func appendRune(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, '\\', 'b')
	case '\t':
		return append(dst, '\\', 't')
	case '\n':
		return append(dst, '\\', 'n')
	case '\f':
		return append(dst, '\\', 'f')
	case '\r':
		return append(dst, '\\', 'r')
	}
	if r < ' ' {
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// number copies a number as the grammar of RFC 8259 has it, within the bounds of the mode.
func (c *canonicalizer) number() error {
	start := c.pos
	if c.src[c.pos] == '-' {
		c.pos++
	}
	first := c.pos
	digits := c.digits()
	if digits == 0 || digits > 1 && c.src[first] == '0' {
		return c.refuse("a malformed number")
	}
	integer := c.src[start:c.pos]
	fraction, exponent := false, false
	if c.pos < len(c.src) && c.src[c.pos] == '.' {
		fraction = true
		c.pos++
		if c.digits() == 0 {
			return c.refuse("a malformed number")
		}
	}
	if c.pos < len(c.src) && (c.src[c.pos] == 'e' || c.src[c.pos] == 'E') {
		exponent = true
		c.pos++
		if c.pos < len(c.src) && (c.src[c.pos] == '+' || c.src[c.pos] == '-') {
			c.pos++
		}
		if c.digits() == 0 {
			return c.refuse("a malformed number")
		}
	}
	if !c.strict {
		c.dst = appendLenient(c.dst, c.src[start:c.pos], integer, fraction, exponent)
		return nil
	}
	if fraction || exponent {
		return c.refuse("a number that is no integer")
	}
	if digits > 16 || digits == 16 && magnitude(integer) > MaxInteger || string(integer) == "-0" {
		return c.refuse("an integer out of range")
	}
	c.dst = append(c.dst, integer...)
	return nil
}

func (c *canonicalizer) digits() int {
	start := c.pos
	for c.pos < len(c.src) && c.src[c.pos] >= '0' && c.src[c.pos] <= '9' {
		c.pos++
	}
	return c.pos - start
}

func magnitude(integer []byte) uint64 {
	n, _ := strconv.ParseUint(string(bytes.TrimPrefix(integer, []byte{'-'})), 10, 64)
	return n
}

// appendLenient writes a number of room versions 1 to 5. The examples in the appendices have -0 become 0
// and 1e10 become 10000000000; other numbers stay as they are.
func appendLenient(dst, number, integer []byte, fraction, exponent bool) []byte {
	if string(number) == "-0" {
		return append(dst, '0')
	}
	if exponent && !fraction {
		power, err := strconv.Atoi(string(number[len(integer)+1:]))
		value := magnitude(integer)
		for err == nil && power > 0 && value > 0 && value <= MaxInteger {
			value *= 10
			power--
		}
		if err == nil && value <= MaxInteger && len(integer) <= 17 && (power == 0 || value == 0) {
			if integer[0] == '-' && value > 0 {
				dst = append(dst, '-')
			}
			return strconv.AppendUint(dst, value, 10)
		}
	}
	return append(dst, number...)
}
