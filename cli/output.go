package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// document writes one JSON document.
func (a *app) document(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// say writes a line of text for people.
func (a *app) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(a.out, format+"\n", args...); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// answer writes v with --json, else the text.
func (a *app) answer(v any, format string, args ...any) error {
	if a.json {
		return a.document(v)
	}
	return a.say(format, args...)
}

// note writes a line beside the output proper, which scripts that read the output don't see.
func (a *app) note(format string, args ...any) {
	a.noting.Lock()
	defer a.noting.Unlock()
	fmt.Fprintf(a.err, format+"\n", args...)
}

// safe makes a stranger's text fit for a terminal: no control characters, nothing invisible, no change of writing
// direction that could disguise what follows. Lines stay lines, and are indented, so that none can pass for another
// message.
func safe(s string) string {
	last := rune(0)
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == 0x2028 || r == 0x2029: // the separators of lines and paragraphs
			r = '\n'
		case r == '\t':
			r = ' '
		case (r == 0x200c || r == 0x200d) && last >= 0x300:
			last = 0 // other scripts than Latin, and emojis, are written with joiners, but never with two
			return r
		case unicode.In(r, unicode.Cc, unicode.Cf):
			r = -1
		}
		last = r
		return r
	}, s)
	return strings.ReplaceAll(s, "\n", "\n    ")
}

// safeLine is safe for what has to stay on one line.
func safeLine(s string) string {
	return strings.ReplaceAll(safe(s), "\n", " ")
}

// colours of a terminal.
const (
	colourGreen  = "\x1b[32m"
	colourYellow = "\x1b[33m"
	colourRed    = "\x1b[31m"
	colourFaint  = "\x1b[2m"
	colourNone   = "\x1b[0m"
)

// painted says whether the output may have colours: on a terminal, unless NO_COLOR is set.
func (a *app) painted() bool {
	_, isTerminal := terminal(a.out)
	return isTerminal && a.getenv("NO_COLOR") == ""
}

func (a *app) paint(colour, text string) string {
	if !a.painted() {
		return text
	}
	return colour + text + colourNone
}
