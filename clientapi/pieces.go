package clientapi

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

const (
	// maxHeld is how many bytes of an answer are held before it begins to go out in pieces, as they are: smaller ones have
	// a length and are compressed.
	maxHeld = 1 << 20
	// largeAnswers is how many answers in pieces a user gets at a time.
	largeAnswers = 4
)

// pieces writes an answer that may be as large as a room, as it comes: it is never held as a whole.
type pieces struct {
	a     *API
	c     *call
	buf   []byte
	any   bool // something was written that is to be followed by a comma
	leave func()
}

// inPieces answers with what gather writes, between two brackets.
func (a *API) inPieces(c *call, open, shut string, gather func(*pieces) error) (any, error) {
	w := &pieces{a: a, c: c, buf: []byte(open)}
	defer func() {
		if w.leave != nil {
			w.leave()
		}
	}()
	err := gather(w)
	if w.buf = append(w.buf, shut...); err == nil && w.leave != nil {
		err = w.flush()
	}
	if err != nil && c.Response().Committed {
		// What has been written cannot be taken back: the client must not take it for the whole.
		panic(http.ErrAbortHandler)
	}
	if err != nil || w.leave != nil {
		return nil, err
	}
	return json.RawMessage(w.buf), nil
}

func (w *pieces) comma() {
	if w.any {
		w.buf = append(w.buf, ',')
	}
	w.any = true
}

func (w *pieces) items(list []json.RawMessage) error {
	for _, raw := range list {
		w.comma()
		w.buf = append(w.buf, raw...)
	}
	return w.written()
}

func (w *pieces) member(user id.UserID, m timeline.Member) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	w.comma()
	w.buf = append(appendName(w.buf, string(user)), raw...)
	return w.written()
}

// written sends what has been written, once it is much.
func (w *pieces) written() (err error) {
	if len(w.buf) < maxHeld {
		return nil
	}
	if w.leave == nil {
		if w.leave, err = w.a.wholes.enter(w.c.Requester.User, largeAnswers); err != nil {
			return err
		}
		w.c.Response().Header()["Content-Type"] = jsonType
		w.c.Response().WriteHeader(http.StatusOK)
	}
	return w.flush()
}

func (w *pieces) flush() error {
	buf := w.buf
	w.buf = w.buf[:0]
	if w.c.Request().Method == http.MethodHead {
		return nil
	}
	_, err := w.c.Response().Write(buf)
	return err
}
