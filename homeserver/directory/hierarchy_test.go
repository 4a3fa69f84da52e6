package directory

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

// TestChildOrder is the example of Client-Server API, "Ordering of children within a space", and what breaks ties.
func TestChildOrder(t *testing.T) {
	node := func(events string) *Node {
		n := &Node{}
		if err := json.Unmarshal([]byte(`{"room_id":"!s","room_type":"m.space","children_state":`+events+`}`), n); err != nil {
			t.Fatal(err)
		}
		n.arrange(false)
		return n
	}
	ev := func(room, at, content string) string {
		return `{"type":"m.space.child","sender":"@a:b","state_key":"` + room + `","origin_server_ts":` + at + `,"content":` + content + `}`
	}
	for name, c := range map[string]struct {
		events []string
		want   string
	}{
		"specification": {[]string{
			ev("!e:example.org", "1640641000000", `{"via":["example.org"]}`),
			ev("!d:example.org", "1640741000000", `{"via":["example.org"]}`),
			ev("!c:example.org", "1640841000000", `{"order":"first","via":["example.org"]}`),
			ev("!a:example.org", "1640141000000", `{"order":"aaaa","via":["example.org"]}`),
			ev("!b:example.org", "1640341000000", `{"order":" ","via":["example.org"]}`),
		}, "!b:example.org !a:example.org !c:example.org !e:example.org !d:example.org"},
		"same order, then same time": {[]string{
			ev("!c", "1", `{"order":"x","via":["a"]}`), ev("!b", "2", `{"order":"x","via":["a"]}`), ev("!a", "2", `{"order":"x","via":["a"]}`),
		}, "!c !a !b"},
		"invalid orders are none": {[]string{
			ev("!long", "1", `{"order":"`+strings.Repeat("a", maxOrder+1)+`","via":["a"]}`), ev("!number", "2", `{"order":1,"via":["a"]}`),
			ev("!tab", "3", `{"order":"\t","via":["a"]}`), ev("!good", "4", `{"order":"`+strings.Repeat("z", maxOrder)+`","via":["a"]}`),
		}, "!good !long !number !tab"},
		"no children": {[]string{
			ev("!no-via", "1", `{}`), ev("!null", "1", `{"via":null}`), ev("!text", "1", `{"via":"a"}`), ev("no room", "1", `{"via":["a"]}`),
		}, ""},
	} {
		var got []string
		for _, c := range node("[" + strings.Join(c.events, ",") + "]").children {
			got = append(got, string(c.room))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

func TestChildrenAreLimited(t *testing.T) {
	n := &Node{}
	n.RoomType = spaceType
	for range maxChildren + 1 {
		n.children = append(n.children, child{room: "!a"})
	}
	if n.arrange(false); len(n.ChildrenState) != maxChildren {
		t.Errorf("%d children, want %d", len(n.ChildrenState), maxChildren)
	}
	n.children[7].suggested = true
	if n.arrange(true); len(n.ChildrenState) != 1 {
		t.Errorf("%d suggested children, want 1", len(n.ChildrenState))
	}
}

func TestHierarchyTokens(t *testing.T) {
	two, yes := 2, true
	first := HierarchyQuery{MaxDepth: &two, SuggestedOnly: &yes}
	p, err := first.place()
	if err != nil {
		t.Fatal(err)
	}
	token := p.token(7)
	next := HierarchyQuery{From: token}
	if got, err := next.place(); err != nil || got != (place{7, 2, true}) {
		t.Errorf("got %+v, %v", got, err)
	}
	three, no := 3, false
	for name, q := range map[string]HierarchyQuery{
		"depth changed":     {From: token, MaxDepth: &three},
		"suggested changed": {From: token, SuggestedOnly: &no},
		"not a token":       {From: "next_batch_token"},
		"nothing in it":     {From: "aDAgMCBmYWxzZQ"},
	} {
		if _, err := q.place(); !errors.Is(err, ErrBadQuery) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeptLevelsAreLimited(t *testing.T) {
	s := &Service{}
	for i := range maxLevelsKept + 1 {
		s.keepLevel(levelKey{room: id.RoomID(rune('!' + i))}, &Level{})
	}
	if len(s.levels) > maxLevelsKept {
		t.Errorf("%d levels are kept, want at most %d", len(s.levels), maxLevelsKept)
	}
}

func FuzzNode(f *testing.F) {
	f.Add([]byte(`{"room_id":"!s","room_type":"m.space","children_state":[{"type":"m.space.child","state_key":"!a","content":{"via":["b"]}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := &Node{}
		if json.Unmarshal(raw, n) != nil {
			return
		}
		n.arrange(false)
		again, err := json.Marshal(n)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		m := &Node{}
		if err := json.Unmarshal(again, m); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if m.arrange(false); len(m.children) != len(n.children) {
			t.Fatalf("%d children became %d", len(n.children), len(m.children))
		}
	})
}
