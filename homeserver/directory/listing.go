package directory

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/store"
)

// since is where a page begins, or going back ends.
type since struct {
	place  store.ListPlace
	back   bool
	before int64 // how many rooms that fit are known to stand before it
}

// listing gathers a page of the public room list.
type listing struct {
	q        Query
	from     since
	filtered bool
	term     string // what is looked for, in lower case

	rooms       []store.PublishedRoom // that fit, in the order in which they were read
	last        store.ListPlace       // up to where the page reaches
	fit         int64                 // how many rooms that fit were seen
	full, ended bool                  // there are more that fit; there are no more at all
	total       int64
}

// read goes through the list until the page is full and it is known whether there are more, or as far as it may.
func (l *listing) read(ctx context.Context, tx *store.Tx) error {
	at, looked, size, shown := l.from.place, 0, 0, 0
	l.last = at
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		some, err := tx.Rooms.Published(at, l.from.back, lookedAtOnce)
		if err != nil {
			return err
		}
		for i := range some {
			r := &some[i]
			at = r.Place
			looked, size = looked+1, size+r.Size()
			fits := r.Here && l.wants(&r.Summary)
			switch {
			case fits && (len(l.rooms) == l.q.Limit || shown >= maxPageSize):
				l.full = true
			case fits:
				l.rooms, shown = append(l.rooms, *r), shown+r.Size()
			}
			if fits {
				l.fit++
			}
			if !l.full {
				l.last = at
			}
		}
		l.ended = len(some) < lookedAtOnce
		if l.ended || looked >= maxLooked || size >= maxLookedSize || l.full && (!l.filtered || looked >= enoughLooked) {
			return l.count(tx)
		}
	}
}

// count tells how many rooms fit. Of those that are asked for with a filter, these are the ones that were looked at.
func (l *listing) count(tx *store.Tx) (err error) {
	switch {
	case !l.filtered && (l.from.back || !l.ended):
		l.total, err = tx.Rooms.CountPublished()
	case l.from.back:
		l.total = max(l.from.before, l.fit)
	default:
		l.total = l.from.before + l.fit
	}
	return err
}

// page is the answer.
func (l *listing) page() *Page {
	p := &Page{Chunk: make([]Entry, len(l.rooms)), Total: l.total}
	for i := range l.rooms {
		p.Chunk[i] = entryOf(&l.rooms[i])
	}
	more := l.full || !l.ended
	shown := int64(len(l.rooms))
	if l.from.back {
		slices.Reverse(p.Chunk)
		// Pages begin behind a place, whichever way they go: here it is one further than what was read is behind.
		p.NextBatch = since{place: store.ListPlace{Members: l.from.place.Members, Room: l.from.place.Room + 1}, before: l.from.before}.token()
		if more {
			p.PrevBatch = since{place: l.last, back: true, before: max(0, l.from.before-shown)}.token()
		}
		return p
	}
	if more {
		p.NextBatch = since{place: l.last, before: l.from.before + shown}.token()
	}
	if l.from.place != store.ListBegin {
		p.PrevBatch = since{place: store.ListPlace{Members: l.from.place.Members, Room: l.from.place.Room - 1}, back: true, before: l.from.before}.token()
	}
	return p
}

func (s since) token() string {
	way := "p"
	if s.back {
		way = "b"
	}
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s.%d.%d.%d", way, s.place.Members, s.place.Room, s.before))
}

// sinceOf reads a token.
func sinceOf(token string) (since, error) {
	if token == "" {
		return since{place: store.ListBegin}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if fields := strings.Split(string(raw), "."); err == nil && len(fields) == 4 && (fields[0] == "p" || fields[0] == "b") {
		var n [3]int64
		for i, field := range fields[1:] {
			if n[i], err = strconv.ParseInt(field, 10, 64); err != nil {
				break
			}
		}
		if err == nil && n[2] >= 0 && n[2] <= math.MaxInt32 {
			return since{place: store.ListPlace{Members: n[0], Room: store.RoomNID(n[1])}, back: fields[0] == "b", before: n[2]}, nil
		}
	}
	return since{}, fmt.Errorf("%w: since is not a token of this server", ErrBadQuery)
}

// wants says whether a room was asked for: one of the types, and with the search term in its name, topic or alias, in
// whatever case and however its letters are composed. The databases know different letters, so they aren't asked.
func (l *listing) wants(r *store.Summary) bool {
	ofType := l.q.RoomTypes == nil || slices.ContainsFunc(l.q.RoomTypes, func(t *string) bool {
		return t == nil && r.RoomType == "" || t != nil && *t == r.RoomType
	})
	if !ofType || l.q.Search == "" {
		return ofType
	}
	text := r.Name + " " + r.CanonicalAlias + " " + r.Topic
	return strings.Contains(glob.Fold(text[:min(len(text), maxSearched)]), l.term)
}
