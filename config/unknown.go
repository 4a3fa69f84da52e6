package config

import (
	"fmt"
	"slices"
	"strings"
)

func isKnown(name string, known []key) bool {
	return slices.ContainsFunc(known, func(k key) bool { return k.name == name })
}

// unknownHint says what may have been meant by a key that does not exist.
func unknownHint(name string, known []key) string {
	for _, k := range known {
		if strings.HasPrefix(k.name, name+".") {
			return "is a section; put its keys below it, such as " + k.name
		}
	}
	return fmt.Sprintf("is unknown; did you mean %s?", nearest(name, known))
}

// nearest is the known key with the fewest changes to name. A key of the same last part in another
// section is one change away, so that "shared_secret" finds "registration.shared_secret".
func nearest(name string, known []key) string {
	best, least := "", -1
	for _, k := range known {
		changes := min(distance(name, k.name), distance(lastPart(name), lastPart(k.name))+1)
		if least < 0 || changes < least {
			best, least = k.name, changes
		}
	}
	return best
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// distance counts the insertions, deletions and replacements that make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func keyOfVariable(variable string, known []key) (name string, ok bool) {
	for _, k := range known {
		if k.env() == variable {
			return k.name, true
		}
	}
	return "", false
}

// misspelledVariable is the variable that was probably meant, or empty for one that is none of ours: container
// platforms and tools add variables with the same beginning. Ours are those that begin with one of the sections,
// and those that differ from one of ours by a few letters.
func misspelledVariable(variable string, known []key) string {
	best, least := "", -1
	ours := false
	for _, k := range known {
		section, _, nested := strings.Cut(k.name, ".")
		ours = ours || nested && strings.HasPrefix(variable, envPrefix+strings.ToUpper(section)+"_")
		if changes := distance(variable, k.env()); least < 0 || changes < least {
			best, least = k.env(), changes
		}
	}
	if !ours && least > max(1, len(variable[len(envPrefix):])/4) {
		return ""
	}
	return best
}
