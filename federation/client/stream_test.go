package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

type described struct {
	names  []id.EventID
	events []json.RawMessage
	said   json.RawMessage
}

func decode(c *Client, r io.Reader, limit int64) (d described, read int64, err error) {
	body := &answer{Reader: r, client: c, limit: limit, until: limit + 1, counted: true}
	defer body.done()
	err = stream{json.NewDecoder(body), body}.object(map[string]member{
		"names": each(&d.names, 3, maxName), "events": each(&d.events, 3, maxEntry), "said": one(&d.said),
	})
	return d, body.read, err
}

func TestListsAreCheckedWhileTheyAreRead(t *testing.T) {
	const limit = 64 << 20
	x := func(n int) string { return strings.Repeat("x", n) }
	whole := func(size int) string {
		entries := `{` + strings.Repeat(`"o":"`+x(1e6)+`",`, 67)
		return entries + `"o":"` + x(size-len(entries)-len(`"o":""}`)) + `"}`
	}
	endless := strings.Repeat(" ", limit)
	for what, c := range map[string]struct {
		body string
		want error // nil if there is none
		most int64 // bytes that may be read
	}{
		"as it should be":         {`{"names":["a","b","c"],"other":{"x":[]},"events":[{"a":1},{}],"said":{}}`, nil, 100},
		"lists of null":           {`{"names":null,"events":null}`, nil, 100},
		"an entry too many":       {`{"names":["a","b","c","d"]}` + endless, ErrTooLarge, 5000},
		"a list twice":            {`{"names":["a","b"],"names":["c","d"]}`, ErrTooLarge, 100},
		"a list of very much":     {`{"names":[` + strings.Repeat(`"",`, limit/4), ErrTooLarge, 5000},
		"the largest event":       {`{"events":["` + x(maxEntry-2) + `"]}`, nil, maxEntry + 100},
		"an event that is larger": {`{"events":["` + x(limit), ErrTooLarge, maxEntry + 100},
		"a long name of an event": {`{"names":["` + x(limit), ErrTooLarge, 5000},
		"something else, large":   {`{"other":["` + x(limit), ErrTooLarge, maxSkipped + 100},
		"a value that is large":   {`{"said":["` + x(limit), ErrTooLarge, maxSkipped + 100},
		"a large name":            {`{"` + x(limit), ErrTooLarge, 5000},
		"nothing at the front":    {endless, ErrTooLarge, 5000},
		"nothing in a list":       {`{"names":[` + endless, ErrTooLarge, 5000},
		"nothing at the end":      {`{}` + endless, ErrTooLarge, 5000},
		"the largest whole":       {whole(limit), nil, limit},
		"a larger whole":          {whole(limit + 1), ErrTooLarge, limit + 1},
	} {
		_, read, err := decode(&Client{}, strings.NewReader(c.body), limit)
		if !errors.Is(err, c.want) || read > c.most {
			t.Errorf("%s: %v after %d bytes", what, err, read)
		}
	}
	for _, body := range []string{``, `[]`, `5`, `{`, `{"names":5}`, `{"names":{}}`, `{"names":[}`, `{"names":[5]}`, `{"said":}`, `{}{}`, `{"names":["a"]`} {
		if _, _, err := decode(&Client{}, strings.NewReader(body), limit); err == nil || errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestLargeAnswersAreBoundedInAll(t *testing.T) {
	c := &Client{}
	c.decoding.all = maxDecoding - 10
	if _, _, err := decode(c, strings.NewReader(`{"said":1}`), 100); err != nil {
		t.Error(err)
	}
	if _, _, err := decode(c, strings.NewReader(`{"said":12}`), 100); !errors.Is(err, ErrBusy) {
		t.Errorf("beyond the bound: %v", err)
	}
	if n := c.decoding.all; n != maxDecoding-10 {
		t.Errorf("after all, %d bytes are counted", n)
	}
}

func TestTooMany(t *testing.T) {
	for n, want := range map[int]bool{maxValues: false, maxValues + 1: true} {
		if tooMany([]byte(fmt.Sprintf(`[",,\",,"%s]`, strings.Repeat(",1", n-1)))) != want {
			t.Errorf("%d values", n)
		}
	}
}

// What is decoded is valid JSON, and is the same as by encoding/json.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"names":["a","b"],"events":[{"a":1},null],"other":[[]],"said":1}`))
	f.Add([]byte(`{"names":null} `))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, _, err := decode(&Client{}, strings.NewReader(string(raw)), 1<<20)
		if err != nil {
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if d.said != nil && string(d.said) != string(all["said"]) {
			t.Errorf("%s: got %s", raw, d.said)
		}
	})
}

// TestWhoHoldsMuchGetsNoMore: what is worked on is not given up for who has more, and what one holds bounds what the same reads, but
// not what others do.
func TestWhoHoldsMuchGetsNoMore(t *testing.T) {
	c := &Client{}
	ctx, release := load.WithHold(t.Context(), "@alice:us.test")
	open := func(who string) *answer {
		body := c.paced(strings.NewReader(""), func() {})
		t.Cleanup(body.stop)
		return &answer{client: c, server: "full.test", body: body, counted: true, who: who}
	}
	first, second, other := open("@alice:us.test"), open("@alice:us.test"), open("@bob:us.test")
	if !c.decoding.add(first, maxHolding+1) {
		t.Fatal("a single one may be larger")
	}
	c.decoding.hold(first, load.HoldOf(ctx))
	if c.decoding.add(second, 1) {
		t.Error("one who holds much reads more")
	}
	second.done()
	if !c.decoding.add(other, maxHolding-10) {
		t.Error("another is kept from reading")
	}
	if c.decoding.add(other, 100) || first.body.failed != nil {
		t.Error("there is room for more than there is, or what is worked on is given up")
	}
	other.done()
	release()
	if !c.decoding.add(second, 1) {
		t.Error("what was worked on goes on counting")
	}
	if second.done(); c.decoding.all != 0 || len(c.decoding.open) != 0 {
		t.Errorf("in the end there are %d bytes", c.decoding.all)
	}
}

// TestWhoHoldsMostLoses: who needs little room gets it, though others hold all of it: the work of who holds the most ends.
func TestWhoHoldsMostLoses(t *testing.T) {
	c := &Client{}
	hold := func(who string, size int64) (context.Context, *answer) {
		ctx, release := load.WithHold(t.Context(), who)
		t.Cleanup(release)
		a := &answer{client: c, server: "full.test", counted: true, who: who}
		if !c.decoding.add(a, size) {
			t.Fatalf("%s has no room", who)
		}
		c.decoding.hold(a, load.HoldOf(ctx))
		return ctx, a
	}
	most, large := hold("@alice:us.test", maxHolding+100)
	less, small := hold("@mallory:us.test", maxHolding-100)
	other := &answer{client: c, server: "other.test", counted: true, who: "@bob:us.test"}
	if !c.decoding.add(other, 100) {
		t.Error("who needs little gets no room")
	}
	failed := errors.New("failed")
	if err := load.Lost(most, failed); most.Err() == nil || !errors.Is(err, load.ErrBusy) {
		t.Errorf("the work of who holds the most ends with %v", err)
	}
	if err := load.Lost(less, failed); less.Err() != nil || !errors.Is(err, failed) {
		t.Errorf("the work of who holds less ends with %v", err)
	}
	for _, a := range []*answer{large, small, other} {
		a.done()
	}
	if c.decoding.all != 0 || len(c.decoding.open) != 0 {
		t.Errorf("in the end there are %d bytes", c.decoding.all)
	}
}

// TestTheFullestServerLoses: answers of one server do not keep those of others from being read.
func TestTheFullestServerLoses(t *testing.T) {
	c := &Client{}
	open := func(server id.ServerName) *answer {
		body := c.paced(strings.NewReader(""), func() {})
		t.Cleanup(body.stop)
		return &answer{client: c, server: server, body: body, counted: true}
	}
	one, two, other := open("full.test"), open("full.test"), open("other.test")
	if !c.decoding.add(one, maxDecoding/2) || !c.decoding.add(two, maxDecoding/2-10) {
		t.Fatal("there is room")
	}
	if !c.decoding.add(other, 100) || !errors.Is(one.body.failed, ErrBusy) || two.body.failed != nil || other.body.failed != nil {
		t.Errorf("the answers: %v, %v, another server's: %v", one.body.failed, two.body.failed, other.body.failed)
	}
	if c.decoding.add(two, maxDecoding) {
		t.Error("the fullest pushes others out")
	}
	for _, a := range []*answer{one, two, other} {
		a.done()
	}
	if c.decoding.all != 0 || len(c.decoding.open) != 0 {
		t.Errorf("in the end there are %d bytes", c.decoding.all)
	}
}
