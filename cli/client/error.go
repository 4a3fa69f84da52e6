package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Error is a refusal by the server: every answer whose status is not 2xx.
type Error struct {
	Status     int
	Code       string // such as "M_FORBIDDEN"; empty if the answer was no Matrix error
	Message    string
	RetryAfter time.Duration // how long the server asks us to wait; 0 if it did not say
	SoftLogout bool          // the session may be renewed by logging in again with the same device
	Auth       *AuthNeeded   // the stages of interactive authentication, on 401 answers that ask for it
}

// Error names status, code and the server's words.
func (e *Error) Error() string {
	switch {
	case e.Code == "" && e.Message == "":
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	case e.Code == "":
		return fmt.Sprintf("the server answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("the server answered %d %s: %s", e.Status, e.Code, e.Message)
}

// AuthNeeded is what a server asks for before it performs a call (Client-Server API, "User-Interactive
// Authentication API").
type AuthNeeded struct {
	Session   string                     `json:"session"`
	Flows     []Flow                     `json:"flows"`
	Completed []string                   `json:"completed"`
	Params    map[string]json.RawMessage `json:"params"`
}

// Flow is one list of stages, all of which have to be completed.
type Flow struct {
	Stages []string `json:"stages"`
}

// Next is the first stage that is still to be done in a flow of which the client can do every stage. A flow that
// has the first of these stages is preferred.
func (a *AuthNeeded) Next(able []string) (stage string, ok bool) {
	for _, flow := range a.Flows {
		if slices.ContainsFunc(flow.Stages, func(s string) bool { return !slices.Contains(able, s) }) {
			continue
		}
		preferred := slices.Contains(flow.Stages, able[0])
		if ok && !preferred {
			continue
		}
		if i := slices.IndexFunc(flow.Stages, func(s string) bool { return !slices.Contains(a.Completed, s) }); i >= 0 {
			stage, ok = flow.Stages[i], true
			if preferred {
				break
			}
		}
	}
	return stage, ok
}

// Unreachable tells failures on the way to the server, which may pass, from refusals and all others. A certificate that
// is not trusted stays so.
func Unreachable(err error) bool {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return false
	}
	var failed net.Error
	return errors.As(err, &failed) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}

func decodeError(answer *http.Response) error {
	refused := &Error{Status: answer.StatusCode}
	if seconds, err := strconv.ParseUint(answer.Header.Get("Retry-After"), 10, 31); err == nil {
		refused.RetryAfter = time.Duration(seconds) * time.Second
	}
	body, err := readAll(answer.Body, maxErrorBody)
	if err != nil {
		return refused
	}
	var wire struct {
		Code       string  `json:"errcode"`
		Message    string  `json:"error"`
		RetryMS    float64 `json:"retry_after_ms"`
		SoftLogout bool    `json:"soft_logout"`
		AuthNeeded
	}
	if json.Unmarshal(body, &wire) != nil {
		return refused
	}
	refused.Code, refused.Message, refused.SoftLogout = wire.Code, printable(wire.Message), wire.SoftLogout
	if refused.RetryAfter == 0 && wire.RetryMS > 0 && wire.RetryMS < float64(24*time.Hour/time.Millisecond) {
		refused.RetryAfter = time.Duration(wire.RetryMS) * time.Millisecond
	}
	if refused.Status == http.StatusUnauthorized && len(wire.Flows) > 0 {
		refused.Auth = &wire.AuthNeeded
	}
	return refused
}

// printable drops control and format characters, so that a server's words can't steer the user's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, s)
}
