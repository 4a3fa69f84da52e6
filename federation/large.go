package federation

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxHeld is how many bytes of a large answer are held before they go out.
	maxHeld = 1 << 20
	// largeLoad is what a large answer counts as while it goes out: what is held, and the events read next.
	largeLoad = 8 << 20
)

// large is an answer with lists of events, as many as a room has. They are known as outlines, and read while it goes out.
type large struct {
	before, behind string // what stands around the object
	rest           map[string]any
	events         []eventList
}

type eventList struct {
	name   string
	events []*store.Event
}

// answerLarge sends a large answer. Its asker has no turn any longer, since it may take its time to read, but has only so
// many at a time by what they count as.
func (a *API) answerLarge(c *call, answer *large, cost int64) error {
	raw, err := json.Marshal(answer.rest)
	if err != nil {
		return err
	}
	w := &largeWriter{c: c, cost: cost, buf: append([]byte(answer.before), '{')}
	if len(answer.rest) > 0 {
		w.buf = append(append(w.buf, raw[1:len(raw)-1]...), ',')
	}
	for i, list := range answer.events {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		w.buf = append(append(append(w.buf, '"'), list.name...), `":[`...)
		comma := false
		err := a.Rooms.EachWhole(c.Request().Context(), list.events, func(events []*store.Event) error {
			for _, ev := range events {
				if comma {
					w.buf = append(w.buf, ',')
				}
				comma = true
				w.buf = append(w.buf, ev.JSON...)
			}
			return w.written()
		})
		if err != nil {
			return w.fail(err)
		}
		w.buf = append(w.buf, ']')
	}
	w.buf = append(append(w.buf, '}'), answer.behind...)
	if !c.Response().Committed {
		return c.answer(json.RawMessage(w.buf), cost)
	}
	return w.fail(w.flush())
}

type largeWriter struct {
	c    *call
	cost int64
	buf  []byte
}

// written sends what has been written, once it is much.
func (w *largeWriter) written() error {
	if len(w.buf) < maxHeld {
		return nil
	}
	if !w.c.Response().Committed {
		if err := w.c.writing(w.cost + largeLoad); err != nil {
			return err
		}
		w.c.begin()
	}
	return w.flush()
}

func (w *largeWriter) flush() error {
	err := w.c.write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// fail makes sure that nobody takes for the whole what went out before an error.
func (w *largeWriter) fail(err error) error {
	if err != nil && w.c.Response().Committed {
		panic(http.ErrAbortHandler)
	}
	return err
}
