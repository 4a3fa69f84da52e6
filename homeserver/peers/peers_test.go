package peers_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/peers"
)

// answers is what servers answer and after how long; those that are not in it are silent until they are cancelled.
type answers map[id.ServerName]struct {
	after time.Duration
	err   error
}

func (a answers) ask(asked *[]id.ServerName) func(context.Context, id.ServerName) (id.ServerName, error) {
	var mu sync.Mutex
	return func(ctx context.Context, s id.ServerName) (id.ServerName, error) {
		mu.Lock()
		*asked = append(*asked, s)
		mu.Unlock()
		given, ok := a[s]
		if !ok {
			<-ctx.Done()
			return "", ctx.Err()
		}
		select {
		case <-time.After(given.after):
			return s, given.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// TestFirst: servers that are silent cost a head start each, those that fail nothing, and what is first is taken.
func TestFirst(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		servers []id.ServerName
		answers answers
		asked   int
		want    id.ServerName
		err     error
		took    time.Duration
	}{
		"the first answers":     {[]id.ServerName{"a", "b"}, answers{"a": {after: time.Second}}, 1, "a", nil, time.Second},
		"the first fails":       {[]id.ServerName{"a", "b"}, answers{"a": {err: gone}, "b": {}}, 2, "b", nil, 0},
		"silent ones":           {[]id.ServerName{"a", "b", "c", "d"}, answers{"c": {after: time.Second}}, 3, "c", nil, 2*peers.HeadStart + time.Second},
		"the slow one is first": {[]id.ServerName{"a", "b"}, answers{"a": {after: 5 * time.Second}}, 2, "a", nil, 5 * time.Second},
		"all fail":              {[]id.ServerName{"a", "b"}, answers{"a": {err: gone}, "b": {err: gone}}, 2, "", gone, 0},
		"nobody":                {nil, nil, 0, "", peers.ErrNobody, 0},
		"all are silent":        {[]id.ServerName{"a", "b"}, nil, 2, "", context.DeadlineExceeded, 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			began := time.Now()
			var asked []id.ServerName
			got, err := peers.First(ctx, c.servers, c.answers.ask(&asked))
			if got != c.want || !errors.Is(err, c.err) || time.Since(began) != c.took || !slices.Equal(asked, c.servers[:c.asked]) {
				t.Errorf("%s: %q, %v after %v, asked %v", name, got, err, time.Since(began), asked)
			}
		})
	}
}

// TestSpread: many names of one owner count as one, and those that failed come last.
func TestSpread(t *testing.T) {
	for _, c := range []struct{ servers, failed, want []id.ServerName }{
		{
			[]id.ServerName{"a.evil.example", "b.evil.example", "c.evil.example:1", "EVIL.example", "x.good.example", "y.other.example"}, nil,
			[]id.ServerName{"a.evil.example", "x.good.example", "y.other.example", "b.evil.example", "c.evil.example:1", "EVIL.example"},
		},
		{
			[]id.ServerName{"a.evil.example", "b.evil.example", "good.example", "10.0.0.1:1", "10.0.0.1:2", "10.0.0.2"}, []id.ServerName{"a.evil.example"},
			[]id.ServerName{"good.example", "10.0.0.1:1", "10.0.0.2", "b.evil.example", "10.0.0.1:2", "a.evil.example"},
		},
		{
			[]id.ServerName{"[2001:db8::1]", "[2001:db8::2]:8448", "[2001:db8:1::1]", "one.co.uk", "two.co.uk", "localhost:1", "localhost:2"}, nil,
			[]id.ServerName{"[2001:db8::1]", "[2001:db8:1::1]", "one.co.uk", "two.co.uk", "localhost:1", "[2001:db8::2]:8448", "localhost:2"},
		},
	} {
		got := peers.Spread(c.servers, func(s id.ServerName) bool { return slices.Contains(c.failed, s) })
		if !slices.Equal(got, c.want) {
			t.Errorf("%v without %v:\n%v, not\n%v", c.servers, c.failed, got, c.want)
		}
	}
}

// TestPanicsAreFailures: what makes the code panic over one answer is a failure of that server.
func TestPanicsAreFailures(t *testing.T) {
	got, err := peers.First(t.Context(), []id.ServerName{"odd", "good"}, func(_ context.Context, s id.ServerName) (string, error) {
		if s == "odd" {
			panic("odd")
		}
		return string(s), nil
	})
	if got != "good" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
