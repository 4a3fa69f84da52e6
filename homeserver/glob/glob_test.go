package glob

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"tea", "tea", true},
		{"tea", "a tea!", true},
		{"tea", "team", false},
		{"tea", "instead, tea", true},
		{"t?a", "a t\u00e9a", true},
		{"t*a", "time for a", true},
		{"t*a", "untie a", false},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"?", "ab", false},
		{"?", "ab c", true},
		{"a*", "ba", false},
		{strings.Repeat("?", 70), strings.Repeat("x", 70), true},
		{strings.Repeat("?", 70), strings.Repeat("x", 71), false},
		{strings.Repeat("?", 127) + "*~", strings.Repeat("x", 200) + "~", true},
	} {
		if got := New(test.pattern).MatchesWords(test.text, freely); got != test.want {
			t.Errorf("%.40q in %.40q: %v", test.pattern, test.text, got)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("a*b?c", "axxbxc")
	f.Add("**", "")
	f.Add("?", "\u00e9")
	f.Add("a*a", "a b_a a")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		pattern, text = strings.ToValidUTF8(pattern, "x"), strings.ToValidUTF8(text, "x")
		if len(pattern) > 12 || len(text) > 40 {
			return
		}
		p := New(pattern)
		if got, want := p.Matches(text), slow([]rune(pattern), []rune(text)); got != want {
			t.Errorf("%q is all of %q: %v", pattern, text, got)
		}
		var want bool
		for i := range len(text) + 1 {
			for j := i; j <= len(text); j++ {
				if i < len(text) && !utf8.RuneStart(text[i]) || j < len(text) && !utf8.RuneStart(text[j]) {
					continue // within a character
				}
				want = want || starts(text, i) && ends(text, j) && slow([]rune(pattern), []rune(text[i:j]))
			}
		}
		if got := p.MatchesWords(text, freely); got != want {
			t.Errorf("%q is in %q: %v", pattern, text, got)
		}
	})
}

// slow is the definition of a pattern, word for word.
func slow(pattern, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '*':
		return slow(pattern[1:], text) || len(text) > 0 && slow(pattern, text[1:])
	default:
		return len(text) > 0 && (pattern[0] == '?' || pattern[0] == text[0]) && slow(pattern[1:], text[1:])
	}
}

func freely(int) bool { return true }

// TestPeriodicTexts: a fixed text that is found again and again within words is paid for each time, and only as often as
// somebody pays.
func TestPeriodicTexts(t *testing.T) {
	pattern, text := New(strings.Repeat("ab ", 170)+"a"), strings.Repeat("ab ", 20_000)
	for _, most := range []int{100_000, 1 << 30} {
		spent, looks := 0, 0
		found := pattern.MatchesWords(text, func(steps int) bool {
			spent, looks = spent+steps, looks+1
			return spent < most
		})
		if found || spent < looks*len(pattern.text)/atOnce || most < spent && spent > most+1000 || spent < most && looks < 19_000 {
			t.Errorf("with %d steps: found: %v, %d steps for %d looks", most, found, spent, looks)
		}
	}
	if !pattern.MatchesWords(text+"a", freely) {
		t.Error("at the end of a word, it is not found")
	}
}
