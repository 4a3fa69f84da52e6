package timeline

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/glob"
)

// maxTermWords is how many words of a search term count.
const maxTermWords = 20

// wordsOf are the words of a search term.
func wordsOf(term string) []string {
	words := split(term)
	return words[:min(len(words), maxTermWords)]
}

// split finds the words of a text. Letters that are written with one code point or with several are the same. Where a script that has no spaces between words meets another, a word ends.
func split(text string) []string {
	var words []string
	for _, field := range strings.FieldsFunc(glob.Fold(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) }) {
		start, before := 0, false
		for i, r := range field {
			now := unspaced(r)
			if unicode.IsMark(r) {
				now = before // it belongs to the letter before it
			}
			if i > start && now != before {
				words = append(words, field[start:i])
				start = i
			}
			before = now
		}
		words = append(words, field[start:])
	}
	return words
}

// unspaced says whether a letter is of a script that is written without spaces between words.
func unspaced(r rune) bool {
	const long, halfwidthLong = 'ー', 'ｰ' // of both kana, and so of no script
	return r >= 0x0e00 && (r == long || r == halfwidthLong ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar))
}

// fits says whether a word of a text is one that is looked for: it begins so, or, where nobody can tell where words begin,
// has it anywhere.
func fits(word, wanted string) bool {
	if first, _ := utf8.DecodeRuneInString(wanted); unspaced(first) {
		return strings.Contains(word, wanted)
	}
	return strings.HasPrefix(word, wanted)
}

// rankOf says how well a text fits: the share of its words that fit a word that is looked for; 0 if any of these is not
// found.
func rankOf(text string, words []string) float64 {
	if text == "" {
		return 0
	}
	in := split(text)
	hits := 0
	for _, w := range words {
		before := hits
		for _, t := range in {
			if fits(t, w) {
				hits++
			}
		}
		if hits == before {
			return 0
		}
	}
	return float64(hits) / float64(max(len(in), 1))
}
