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
	// heldLoad is what an answer in pieces counts as while it goes out: a piece, and what is read for the next one.
	heldLoad = 8 << 20
	// largeAnswers is how many answers in pieces a user gets at a time.
	largeAnswers = 4
)

// outgoing is an answer that goes out as it is written, since it may be too large to be held.
type outgoing struct {
	c   *call
	buf []byte
}

// begin charges the answer and sends its head.
func (s *outgoing) begin() error {
	if err := s.c.answering(heldLoad); err != nil {
		return err
	}
	s.head()
	return nil
}

func (s *outgoing) head() {
	s.c.Response().Header()["Content-Type"] = jsonType
	s.c.Response().WriteHeader(http.StatusOK)
}

func (s *outgoing) flush() error {
	buf := s.buf
	s.buf = s.buf[:0]
	if s.c.Request().Method == http.MethodHead {
		return nil
	}
	_, err := s.c.Response().Write(buf)
	return err
}

// whole sees to it that a client does not take for the whole what went out before an error, and cannot be taken back.
func (s *outgoing) whole(err error) error {
	if err != nil && s.c.Response().Committed {
		panic(http.ErrAbortHandler)
	}
	return err
}

// pieces writes an answer that may be as large as a room, and begins to send it once it is large.
type pieces struct {
	outgoing
	a     *API
	any   bool // something was written that is to be followed by a comma
	leave func()
}

// inPieces answers with what gather writes, between two brackets.
func (a *API) inPieces(c *call, open, shut string, gather func(*pieces) error) (any, error) {
	w := &pieces{a: a, outgoing: outgoing{c, []byte(open)}}
	defer func() {
		if w.leave != nil {
			w.leave()
		}
	}()
	err := gather(w)
	if w.buf = append(w.buf, shut...); err == nil && w.leave != nil {
		err = w.flush()
	}
	if err = w.whole(err); err != nil || w.leave != nil {
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
		if err = w.begin(); err != nil {
			return err
		}
	}
	return w.flush()
}
