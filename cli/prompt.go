package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// maxSecret bounds a password, in bytes.
const maxSecret = 4096

// password gets a password: from the first line of standard input if fromStdin, else from a prompt that does
// not show it. With twice, the prompt asks again.
func (a *app) password(prompt string, fromStdin, twice bool) (string, error) {
	fd, isTerminal := terminal(a.stdin)
	switch {
	case fromStdin:
		return a.secretLine()
	case !isTerminal:
		return "", fail(exitUsage, "pipe it in and say --password-stdin", "there is no terminal to ask for the password on")
	}
	secret, err := a.ask(fd, prompt)
	if err != nil {
		return "", err
	}
	if twice {
		again, err := a.ask(fd, "The same again: ")
		if err != nil {
			return "", err
		}
		if again != secret {
			return "", fail(exitFailure, "try again", "the two were not the same")
		}
	}
	return secret, nil
}

func (a *app) ask(fd int, prompt string) (string, error) {
	a.prompt("%s", prompt)
	secret, err := term.ReadPassword(fd)
	a.note("")
	if err != nil {
		return "", fmt.Errorf("reading from the terminal: %w", err)
	}
	return checkSecret(string(secret))
}

func (a *app) secretLine() (string, error) {
	line, err := a.readLine(maxSecret)
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", fail(exitUsage, "pipe it in as one line", "reading it from standard input: %w", err)
	}
	return checkSecret(line)
}

// readLine reads one line of standard input, without its end, of at most limit bytes. At the end of the input
// it answers what is left, with io.EOF.
func (a *app) readLine(limit int) (string, error) {
	var line strings.Builder
	for {
		part, err := a.in.ReadSlice('\n')
		line.Write(part)
		if line.Len() > limit+len("\r\n") {
			return "", fmt.Errorf("a line of standard input is longer than %d bytes", limit)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return strings.TrimSuffix(strings.TrimSuffix(line.String(), "\n"), "\r"), err
	}
}

func checkSecret(secret string) (string, error) {
	if secret == "" || len(secret) > maxSecret {
		return "", fail(exitUsage, fmt.Sprintf("it has from 1 to %d bytes", maxSecret), "the secret is empty or too long")
	}
	return secret, nil
}

// confirm asks a question that only "yes" answers.
func (a *app) confirm(question string) (bool, error) {
	a.prompt("%s Type yes to confirm: ", question)
	answer, err := a.readLine(maxSecret)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return strings.TrimSpace(answer) == "yes", nil
}

// firstLine is the text before the first line break.
func firstLine(data []byte) string {
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r")
}
