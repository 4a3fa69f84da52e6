package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

// Limits of the lists in answers: of entries, and of bytes of one entry.
const (
	maxList    = 200000    // events or IDs that describe the state of a room
	maxPage    = 1000      // entries of a page, of whatever size it was asked for
	maxEntry   = 128 << 10 // an event as it may be written: 64 KiB, and what is not counted in it
	maxName    = 2 << 10   // an event ID or server name, escaped and with white space around
	maxSkipped = limitSmall
	// maxValues bounds what is decoded as a whole: small values take up much more memory decoded than encoded.
	maxValues = 500000
	// maxDecoding bounds the bytes of large answers that are being read and worked on at a time, in all; maxHolding those
	// of one for whom they are, unless it is a single one.
	maxDecoding = limitStates + limitStates/4
	maxHolding  = maxDecoding / 2
)

// answer is the body of a response while it is read. It ends in an error where a limit is exceeded.
type answer struct {
	io.Reader
	body    *paced // nil in tests
	server  id.ServerName
	client  *Client
	read    int64
	limit   int64      // of the whole
	until   int64      // how far the value that is being decoded may reach
	counted bool       // towards maxDecoding
	who     string     // for whom it is held while it is worked on; empty for nobody
	held    *load.Hold // it has been read, and is worked on; guarded by decoding.mu
}

// Read reads on, not beyond the limits.
func (a *answer) Read(p []byte) (int, error) {
	left := min(a.until, a.limit+1) - a.read
	if left <= 0 {
		return 0, fmt.Errorf("%w: a value of it is", ErrTooLarge)
	}
	n, err := a.Reader.Read(p[:min(int64(len(p)), left)])
	a.read += int64(n)
	if a.read > a.limit {
		return n, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, a.limit)
	}
	if a.counted && !a.client.decoding.add(a, int64(n)) {
		return n, ErrBusy
	}
	return n, err
}

func (a *answer) done() {
	if a.counted {
		a.client.decoding.done(a)
	}
}

// stream decodes an answer value by value while it is read.
type stream struct {
	*json.Decoder
	answer *answer
}

// allow bounds the next value. The decoder may have to see what stands around it.
func (s stream) allow(size int64) { s.answer.until = s.InputOffset() + size + 64 }

func (s stream) value(into any, size int64) error {
	s.allow(size)
	return s.Decode(into)
}

func (s stream) token() (json.Token, error) {
	s.allow(maxName)
	return s.Token()
}

func (s stream) more() bool {
	s.allow(maxName)
	return s.More()
}

// member decodes the value of one member of an answer.
type member func(stream) error

// one is a member that is decoded as a whole.
func one(into any) member {
	return func(s stream) error { return s.value(into, maxSkipped) }
}

// each is a member that is a list of at most so many entries of so many bytes. Null is an empty list.
func each[T any](into *[]T, count int, size int64) member {
	return func(s stream) error {
		begin, err := s.token()
		if err != nil || begin == nil {
			return err
		}
		if begin != json.Delim('[') {
			return errors.New("no list where there should be one")
		}
		if *into == nil {
			*into = []T{}
		}
		for s.more() {
			if len(*into) == count {
				return fmt.Errorf("%w: more than %d entries", ErrTooLarge, count)
			}
			var entry T
			if err := s.value(&entry, size); err != nil {
				return err
			}
			*into = append(*into, entry)
		}
		_, err = s.token()
		return err
	}
}

// doMembers is do for answers with long lists: they are checked while they are read.
func (c *Client) doMembers(ctx context.Context, to id.ServerName, request call, members map[string]member) error {
	return c.read(ctx, to, request, func(body *answer) error {
		s := stream{json.NewDecoder(body), body}
		err := s.object(members)
		if err == nil || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrBusy) || ctx.Err() != nil {
			return err
		}
		return malformed(to, request.path, err)
	})
}

// doPair is doMembers for version 1 of some endpoints, which answers with a status code before the object.
func (c *Client) doPair(ctx context.Context, to id.ServerName, request call, members map[string]member) error {
	return c.read(ctx, to, request, func(body *answer) error {
		s := stream{json.NewDecoder(body), body}
		err := s.pair(members)
		if err == nil || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrBusy) || ctx.Err() != nil {
			return err
		}
		return malformed(to, request.path, err)
	})
}

func (s stream) pair(members map[string]member) error {
	if begin, err := s.token(); err != nil || begin != json.Delim('[') {
		return errors.Join(errors.New("no list"), err)
	}
	if _, err := s.token(); err != nil { // the status code
		return err
	}
	if err := s.members(members); err != nil {
		return err
	}
	if end, err := s.token(); err != nil || end != json.Delim(']') {
		return errors.Join(errors.New("a pair has two parts"), err)
	}
	return s.end()
}

func (s stream) object(members map[string]member) error {
	if err := s.members(members); err != nil {
		return err
	}
	return s.end()
}

// end is that nothing follows.
func (s stream) end() error {
	if _, err := s.token(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("it goes on behind its end"), err)
	}
	return nil
}

func (s stream) members(members map[string]member) error {
	if begin, err := s.token(); err != nil || begin != json.Delim('{') {
		return errors.Join(errors.New("no object"), err)
	}
	for s.more() {
		name, err := s.token()
		if err != nil {
			return err
		}
		decode := members[fmt.Sprint(name)]
		if decode == nil {
			decode = one(&json.RawMessage{})
		}
		if err := decode(s); err != nil {
			return fmt.Errorf("%.64q: %w", name, err)
		}
	}
	_, err := s.token()
	return err
}

// tooMany says whether JSON has more than maxValues values, all but the first behind a comma.
func tooMany(raw []byte) bool {
	_, n := canonicaljson.Commas(raw)
	return n >= maxValues
}
