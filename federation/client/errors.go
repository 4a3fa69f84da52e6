package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

var (
	// ErrSelf says that a request was addressed to ourselves.
	ErrSelf = errors.New("a server does not call itself over the federation")
	// ErrTooLarge says that an answer is larger than its limit.
	ErrTooLarge = errors.New("answer too large")
	// ErrBusy says that too many large answers are being read already, or worked on.
	ErrBusy = fmt.Errorf("%w: other servers' large answers are still worked on; try again later", load.ErrBusy)
	// ErrMalformed says that an answer of success is not what the specification has there.
	ErrMalformed = errors.New("malformed answer")
)

const (
	maxErrorBody    = 64 << 10
	maxErrorMessage = 500
	maxErrorCode    = 100
	maxRetryAfter   = 24 * time.Hour
)

// Error is an answer of another server that is not a success.
type Error struct {
	Server id.ServerName
	Status int
	// Code is the errcode, such as M_FORBIDDEN; empty if the answer had none.
	Code string
	// Message is the other server's text, cut to a bounded length.
	Message string
	// RetryAfter is how long the other server asks to be left alone, at most a day.
	RetryAfter time.Duration
	// RoomVersion comes with M_INCOMPATIBLE_ROOM_VERSION.
	RoomVersion id.RoomVersion
}

// Error names server, status, code and message.
func (e *Error) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%s answered with status %d %s", e.Server, e.Status, e.Code)) + fmt.Sprintf(": %q", e.Message)
}

func readError(server id.ServerName, response *http.Response) *Error {
	e := &Error{Server: server, Status: response.StatusCode}
	var body struct {
		Code         string  `json:"errcode"`
		Message      string  `json:"error"`
		RetryAfterMs float64 `json:"retry_after_ms"`
		RoomVersion  string  `json:"room_version"`
	}
	if raw, err := readAll(response.Body, maxErrorBody); err == nil && json.Unmarshal(raw, &body) == nil {
		e.Code, e.Message = cut(body.Code, maxErrorCode), cut(body.Message, maxErrorMessage)
		e.RoomVersion = id.RoomVersion(cut(body.RoomVersion, id.MaxLength))
	}
	seconds := body.RetryAfterMs / 1000
	if header, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 32); err == nil {
		seconds = float64(header)
	}
	e.RetryAfter = time.Duration(max(0, min(seconds, maxRetryAfter.Seconds())) * float64(time.Second))
	return e
}

func cut(s string, limit int) string {
	return strings.ToValidUTF8(s[:min(len(s), limit)], "")
}
