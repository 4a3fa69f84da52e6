package load

import (
	"errors"
	"io"
	"time"
)

// Bodies have bodyTimeout to arrive in, and within that may not pause for longer than bodyPatience, give or take what they
// have sent at bodySlowest bytes a second.
const (
	bodyTimeout  = time.Minute
	bodyPatience = 20 * time.Second
	bodySlowest  = 4 << 10
)

// ErrTooLarge is for a body beyond its limit.
var ErrTooLarge = errors.New("the request is too large")

// Read reads a body of at most limit bytes and charges it while it comes in: what it takes up grows with what has come,
// whatever length was announced. deadline sets until when the next piece must be here; it is left set. Other errors than
// ErrBusy and ErrTooLarge are the body's.
func Read(body io.Reader, limit int64, to *Charge, deadline func(time.Time)) ([]byte, error) {
	began := time.Now()
	deadline(began.Add(bodyPatience))
	data, err := io.ReadAll(&charged{
		Reader: io.LimitReader(body, limit+1), to: to, deadline: deadline, end: began.Add(bodyTimeout), until: began.Add(bodyPatience),
	})
	switch {
	case to.Over():
		return nil, ErrBusy
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, ErrTooLarge
	}
	return data, nil
}

// charged reads a body and charges it while it comes in.
type charged struct {
	io.Reader
	to       *Charge
	deadline func(time.Time) // of the next piece
	end      time.Time       // of all
	until    time.Time       // of the pause that it has left
	read     int64
}

func (r *charged) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	most := time.Now().Add(bodyPatience)
	if r.until = r.until.Add(time.Duration(n) * time.Second / bodySlowest); r.until.After(most) {
		r.until = most
	}
	if !r.to.Over() {
		r.deadline(earlier(r.until, r.end))
	}
	if refused := r.to.Grow(r.read); refused != nil {
		return n, refused
	}
	return n, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
