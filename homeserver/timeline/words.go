package timeline

import (
	"strings"
	"unicode"
)

// maxTermWords is how many words of a search term count.
const maxTermWords = 20

// wordsOf are the words of a search term.
func wordsOf(term string) []string {
	words := split(term)
	return words[:min(len(words), maxTermWords)]
}

func split(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) })
}

// rankOf says how well a text fits: the share of its words that begin with a word that is looked for; 0 if any of these
// is not found.
func rankOf(text string, words []string) float64 {
	if text == "" {
		return 0
	}
	in := split(text)
	hits := 0
	for _, w := range words {
		before := hits
		for _, t := range in {
			if strings.HasPrefix(t, w) {
				hits++
			}
		}
		if hits == before {
			return 0
		}
	}
	return float64(hits) / float64(max(len(in), 1))
}
