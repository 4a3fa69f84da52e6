package pushrule

import (
	"strings"
	"unicode/utf8"
)

// glob is a pattern of the specification (Appendices, "Glob-style matching"): '*' stands for any characters, '?' for
// one. It is split at its stars, and compared without regard to case. Matching takes time in the order of the text's
// length times the pattern's, whatever they are.
type glob struct {
	pieces []string
	joker  bool // there is a '?' in it
}

func newGlob(pattern string) glob {
	pattern = fold(pattern)
	return glob{strings.Split(pattern, "*"), strings.Contains(pattern, "?")}
}

// fold makes texts that differ only in case equal.
func fold(s string) string { return strings.ToLower(s) }

// matches says whether the pattern is all of a text, which must be folded.
func (g glob) matches(text string) bool {
	if len(g.pieces) == 1 {
		n, ok := g.at(text, g.pieces[0])
		return ok && n == len(text)
	}
	n, ok := g.at(text, g.pieces[0])
	if !ok {
		return false
	}
	text = text[n:]
	last := len(g.pieces) - 1
	for _, piece := range g.pieces[1:last] {
		i, n := g.index(text, piece, func(int, int) bool { return true })
		if i < 0 {
			return false
		}
		text = text[i+n:]
	}
	i, _ := g.index(text, g.pieces[last], func(start, n int) bool { return start+n == len(text) })
	return i >= 0
}

// matchesWords says whether the pattern is a part of a folded text that starts and ends at the boundary of a word.
func (g glob) matchesWords(text string) bool {
	starts := func(i int) bool { return i == 0 || !isWord(text[i-1]) }
	ends := func(i int) bool { return i == len(text) || !isWord(text[i]) }
	if len(g.pieces) == 1 {
		i, _ := g.index(text, g.pieces[0], func(i, n int) bool { return starts(i) && ends(i+n) })
		return i >= 0
	}
	// A star takes what it gets, so the first place where a piece fits is as good as any later one.
	from := 0
	last := len(g.pieces) - 1
	for k, piece := range g.pieces {
		i, n := g.index(text[from:], piece, func(i, n int) bool {
			return (k > 0 || starts(from+i)) && (k < last || ends(from+i+n))
		})
		if i < 0 {
			return false
		}
		from += i + n
	}
	return true
}

// at says whether a piece fits at the start of a text, and how many bytes of it it takes.
func (g glob) at(text, piece string) (int, bool) {
	if !g.joker {
		return len(piece), strings.HasPrefix(text, piece)
	}
	n := 0
	for _, want := range piece {
		got, size := utf8.DecodeRuneInString(text[n:])
		if size == 0 || want != '?' && want != got {
			return 0, false
		}
		n += size
	}
	return n, true
}

// index finds the first place where a piece fits and that is accepted, and how many bytes it takes there; -1 if
// there is none.
func (g glob) index(text, piece string, accept func(start, n int) bool) (int, int) {
	for start := 0; start <= len(text); {
		if !g.joker {
			i := strings.Index(text[start:], piece)
			if i < 0 {
				return -1, 0
			}
			start += i
		}
		if n, ok := g.at(text[start:], piece); ok && accept(start, n) {
			return start, n
		}
		_, size := utf8.DecodeRuneInString(text[start:])
		start += max(size, 1)
	}
	return -1, 0
}

func isWord(b byte) bool {
	return b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}
