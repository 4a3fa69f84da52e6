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

// word is a string as a word of a shell's command. Of what can't be shown the code points are: the word is a wrong one
// then, but none that passes for another.
func word(s string) text {
	if !utf8.ValidString(s) || safeLine(s) != s {
		escaped := strconv.QuoteToASCII(s)
		s = escaped[1 : len(escaped)-1]
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
	return utf8.ValidString(plain) && safe(plain) == plain
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

func (a *app) paint(colour, shown text) text {
	if !a.painted() {
		return shown
	}
	return colour + shown + colourNone
}
