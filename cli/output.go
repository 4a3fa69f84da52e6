package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/id"
)

// text is what can be written to a terminal as it is. It is made in this file only, of constants and of what can steer
// nothing: all that the commands write goes through compose or document.
type text string

// compose is fmt.Sprintf for a terminal. Every argument that is not text yet is made fit for one: strings stay on one
// line, errors are indented, identifiers are such that they can be copied into a shell.
func compose(format string, args ...any) text {
	for i := range args {
		args[i] = showable(args[i])
	}
	return text(fmt.Sprintf(format, args...))
}

func showable(arg any) any {
	switch v := arg.(type) {
	case nil:
		return nil
	case text:
		return string(v)
	case id.UserID, id.RoomID, id.EventID, id.DeviceID, id.RoomAlias:
		return string(identifier(reflect.ValueOf(v).String()))
	case error:
		return safe(v.Error())
	case fmt.Stringer:
		return safeLine(v.String())
	}
	switch v := reflect.ValueOf(arg); {
	case v.Kind() == reflect.String:
		return safeLine(v.String())
	case v.CanInt(), v.CanUint(), v.CanFloat(), v.Kind() == reflect.Bool:
		return arg
	}
	return safeLine(fmt.Sprint(arg))
}

// lines is a stranger's text of several lines.
func lines(s string) text { return text(safe(s)) }

// identifier shows an identifier as it is if it is an ordinary one, else as word does.
func identifier(s string) text {
	if s != "" && strings.ContainsRune("@!#$", rune(s[0])) && string(word(s[1:])) == s[1:] {
		return text(s)
	}
	return word(s)
}

// quoted is a name, or another text of one line, that strangers chose and that stands beside what the program says: in
// quotes, so that nothing in it passes for a mark.
func quoted(s string) text {
	return text(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(safeLine(s)) + `"`)
}

// word is a string as a word of a shell's command. Of what can't be shown the code points are: the word is a wrong one
// then, but none that passes for another.
func word(s string) text {
	if !utf8.ValidString(s) || safeLine(s) != s {
		escaped := strconv.QuoteToASCII(s)
		s = strings.ReplaceAll(escaped[1:len(escaped)-1], "  ", ` \x20`)
	}
	special := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@:._=/+-", r)
	}
	if !strings.ContainsFunc(s, special) {
		return text(s)
	}
	return text("'" + strings.ReplaceAll(s, "'", `'\''`) + "'")
}

// document writes one JSON document. What could steer a terminal is escaped, which changes no value.
func (a *app) document(v any) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return a.write(escaped(strings.TrimSuffix(out.String(), "\n")) + "\n")
}

// escaped is a JSON document of one line with escapes for what is not visible, or not UTF-8.
func escaped(document string) text {
	var out strings.Builder
	for _, r := range document {
		switch {
		case r != utf8.RuneError && !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return text(out.String())
}

func (a *app) write(t text) error {
	if _, err := a.out.Write([]byte(t)); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// say writes a line of text for people; the format works as in compose.
func (a *app) say(format string, args ...any) error {
	return a.write(compose(format+"\n", args...))
}

// answer writes v with --json, else the text.
func (a *app) answer(v any, format string, args ...any) error {
	if a.json {
		return a.document(v)
	}
	return a.say(format, args...)
}

// note writes a line beside the output proper, which scripts that read the output don't see.
func (a *app) note(format string, args ...any) { a.prompt(format+"\n", args...) }

// prompt is note without the end of the line.
func (a *app) prompt(format string, args ...any) {
	shown := compose(format, args...)
	a.noting.Lock()
	defer a.noting.Unlock()
	fmt.Fprint(a.err, string(shown))
}

// pour writes the bytes of a file. They go to a terminal only if they are text.
func (a *app) pour(data []byte) error {
	if _, isTerminal := terminal(a.out); isTerminal && !printable(data) {
		return fail(exitUnsafe, "write it into a file, or pipe it on", "its bytes could steer the terminal")
	}
	return a.write(text(data))
}

// printable says whether a file is text with nothing in it but what is visible, and lines.
func printable(data []byte) bool {
	plain := strings.NewReplacer("\r\n", "", "\n", "", "\t", "").Replace(string(data))
	return utf8.ValidString(plain) && visible(plain) == plain
}

const (
	// maxIndent is how far a line of a stranger's text may be indented beyond what the program indents it by.
	maxIndent = 4
	// maxMarks bounds the combining marks of one letter; a pile of them covers the lines around.
	maxMarks = 4
)

// safe makes a stranger's text fit for a terminal: no control characters, nothing invisible, no change of writing
// direction that could disguise what follows. Lines stay lines, and are indented further than any line that the program
// begins, so that none can pass for another message. There are no runs of spaces: two part what the program says, and
// more would move what follows to where a terminal begins a new line.
func safe(s string) string {
	return strings.ReplaceAll(spaced(visible(s)), "\n", "\n    ")
}

// safeLine is safe for what has to stay on one line.
func safeLine(s string) string {
	return spaced(strings.ReplaceAll(visible(s), "\n", " "))
}

// spaced makes all runs of spaces one space, but for those that a line after the first begins with. The first one stands
// behind something of the program's.
func spaced(s string) string {
	left := 0
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			left = maxIndent
		case !unicode.Is(unicode.Zs, r):
			left = 1
		case left == 0:
			return -1
		default:
			left--
			return ' '
		}
		return r
	}, s)
}

// blanks are characters that show nothing though they are no spaces: an empty Braille cell, a note without a head, and
// the blanks of hieroglyphs.
const blanks = "\u2800\U0001d159\U00013441\U00013442"

// visible drops what can't be seen of a text, and what steers the terminal.
func visible(s string) string {
	last, marks := rune(0), maxMarks // at the beginning they would be marks on what the program wrote
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			r = ' '
		}
		switch {
		case r == '\n' || r == 0x2028 || r == 0x2029: // the separators of lines and paragraphs
			last, marks = 0, maxMarks
			return '\n'
		case unicode.Is(unicode.Zs, r): // nothing belongs to a space, or there would be two in a row again
			last, marks = 0, maxMarks
			return r
		case (r == 0x200c || r == 0x200d) && last >= 0x300:
			last = 0 // other scripts than Latin, and emojis, are written with joiners, but never with two
			return r
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point), strings.ContainsRune(blanks, r):
			return -1
		case !unicode.In(r, unicode.Mn, unicode.Me):
			marks = 0
		case marks == maxMarks:
			return -1
		default:
			marks++
		}
		last = r
		return r
	}, s)
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

func (a *app) paint(colour, shown text) text {
	if !a.painted() {
		return shown
	}
	return colour + shown + colourNone
}
