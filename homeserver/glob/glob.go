package glob

import (
	"math/bits"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Pattern is a pattern made ready. It holds no more than its text.
type Pattern struct {
	text   string
	tokens int    // how many characters it takes at least
	wild   bool   // there is a * or a ? in it
	part   string // a piece of it that every text has in which it is found
}

// New makes a pattern ready.
func New(pattern string) Pattern {
	p := Pattern{text: pattern, part: pattern, wild: strings.ContainsAny(pattern, "*?")}
	p.tokens = utf8.RuneCountInString(pattern) - strings.Count(pattern, "*")
	if p.wild {
		p.part = ""
		for piece := range strings.FieldsFuncSeq(pattern, func(r rune) bool { return r == '*' || r == '?' }) {
			if len(piece) > len(p.part) {
				p.part = piece
			}
		}
	}
	return p
}

// Text is a pattern that only one text fits, whatever characters there are in it.
func Text(text string) Pattern {
	return Pattern{text: text, part: text, tokens: utf8.RuneCountInString(text)}
}

// Plain says whether only one text fits: the pattern itself.
func (p Pattern) Plain() bool { return !p.wild }

const (
	atOnce = 8  // bytes of a text that a search for a fixed text passes in one step
	ready  = 16 // steps to make a character ready
	again  = 16 // steps to begin a search again
)

// Cost is how many steps it takes at most to look for the pattern in a text of so many bytes.
func (p Pattern) Cost(size int) int {
	if !p.wild {
		return 1 + size/atOnce
	}
	return (size+1)*p.words() + p.tokens*ready
}

// words is how many machine words hold a bit for each state: how many of the characters have been found.
func (p Pattern) words() int { return p.tokens/64 + 1 }

// Matches says whether the pattern is all of a text.
func (p Pattern) Matches(text string) bool {
	if !p.wild {
		return p.text == text
	}
	return len(text) >= p.tokens && strings.Contains(text, p.part) && p.run(text, false)
}

// MatchesWords says whether the pattern is a part of a text that starts and ends at the boundary of a word. Where it is a
// part of words, the search goes on, and what that takes beside Cost is asked for by spend: false ends the search.
func (p Pattern) MatchesWords(text string, spend func(steps int) bool) bool {
	if p.wild {
		return strings.Contains(text, p.part) && p.run(text, true)
	}
	for from := 0; from <= len(text); {
		i := strings.Index(text[from:], p.text)
		if i < 0 {
			return false
		}
		i += from
		if starts(text, i) && ends(text, i+len(p.text)) {
			return true
		}
		for from = i + 1; from < len(text) && !(utf8.RuneStart(text[from]) && starts(text, from)); {
			from++
		}
		if !spend(again + len(p.text)/atOnce + from - i) {
			return false
		}
	}
	return false
}

// Fold makes texts the same that differ in case, or in how their letters are composed.
func Fold(text string) string { return norm.NFC.String(strings.ToLower(text)) }

// automaton is the states that a pattern can be in, a bit for each, and where each character leads (an extended "shift
// and": S. Wu and U. Manber, "Fast text searching allowing errors", 1992).
type automaton struct {
	states, loops, others []uint64          // loops: the states that any character leaves as they are
	masks                 map[rune][]uint64 // the states that a character leads to; others of one that is not there
}

func (p Pattern) automaton() *automaton {
	n := p.words()
	all := make([]uint64, 3*n)
	a := &automaton{all[:n], all[n : 2*n], all[2*n:], make(map[rune][]uint64, min(p.tokens, 64))}
	state := 0
	for _, r := range p.text {
		if r == '*' {
			a.loops[state/64] |= 1 << (state % 64)
			continue
		}
		state++
		mask := a.others
		if r != '?' {
			if mask = a.masks[r]; mask == nil {
				mask = make([]uint64, n)
				a.masks[r] = mask
			}
		}
		mask[state/64] |= 1 << (state % 64)
	}
	for _, mask := range a.masks {
		for i := range mask {
			mask[i] |= a.others[i]
		}
	}
	return a
}

// step goes past a character, and says whether any state is left.
func (a *automaton) step(r rune) bool {
	mask := a.masks[r]
	if mask == nil {
		mask = a.others
	}
	var carry, left uint64
	for i, s := range a.states {
		next := (bits.RotateLeft64(s, 1)&^1|carry)&mask[i] | s&a.loops[i]
		carry = s >> 63
		a.states[i] = next
		left |= next
	}
	return left != 0
}

func (p Pattern) run(text string, words bool) bool {
	a := p.automaton()
	last, bit := p.tokens/64, uint64(1)<<(p.tokens%64)
	a.states[0] = 1
	for i, r := range text {
		if words {
			if starts(text, i) {
				a.states[0] |= 1
			}
			if a.states[last]&bit != 0 && ends(text, i) {
				return true
			}
		}
		if !a.step(r) && !words {
			return false
		}
	}
	if words && starts(text, len(text)) {
		a.states[0] |= 1
	}
	return a.states[last]&bit != 0
}

func starts(text string, i int) bool { return i == 0 || !isWord(text[i-1]) }

func ends(text string, i int) bool { return i == len(text) || !isWord(text[i]) }

func isWord(b byte) bool {
	return b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}
