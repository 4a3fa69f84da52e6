package homeserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// tell has a peer tell of a room by a name, with children.
func tell(p *hstest.Peer, room id.RoomID, name, typ string, children ...map[string]any) {
	if children == nil {
		children = []map[string]any{}
	}
	state := []any{}
	for _, c := range children {
		state = append(state, map[string]any{
			"type": "m.space.child", "state_key": c["room_id"], "sender": p.User("x"), "origin_server_ts": 1, "content": map[string]any{"via": []any{p.Name}},
		})
	}
	p.Handle("GET /_matrix/federation/v1/hierarchy/"+string(room), hstest.Answer(200, map[string]any{
		"room":     map[string]any{"room_id": room, "name": name, "room_type": typ, "join_rule": "public", "num_joined_members": 1, "children_state": state},
		"children": children, "inaccessible_children": []any{},
	}))
}

// TestEachServerSpeaksForItself: what one server says of a room is for those who ask it, and for its own spaces.
func TestEachServerSpeaksForItself(t *testing.T) {
	s := hstest.NewFederating(t)
	evil, honest := hstest.NewPeer(t, s), hstest.NewPeer(t, s)
	target, trap := id.RoomID("!target:"+string(honest.Name)), id.RoomID("!trap:"+string(evil.Name))
	lie := map[string]any{"room_id": target, "name": "lie", "join_rule": "public", "num_joined_members": 1, "world_readable": true, "guest_can_join": false}
	tell(evil, target, "lie", "")
	tell(evil, trap, "trap", "m.space", lie)
	tell(honest, target, "truth", "")
	alice := s.Register("alice")
	asked := func(via *hstest.Peer) string {
		var summary struct {
			Name string `json:"name"`
		}
		alice.Must("GET", "/v1/room_summary/"+url.PathEscape(string(target))+"?via="+string(via.Name), nil, &summary)
		return summary.Name
	}
	for range 2 {
		if lied, told := asked(evil), asked(honest); lied != "lie" || told != "truth" {
			t.Errorf("told %q by one and %q by the other", lied, told)
		}
	}
	if n := honest.Asked("GET /_matrix/federation/v1/hierarchy/"); n != 1 {
		t.Errorf("the same was asked %d times", n)
	}
	space := makeSpaceRoom(alice, "space", "public_chat", "m.space")
	for child, at := range map[id.RoomID]struct {
		via   *hstest.Peer
		order string
	}{trap: {evil, "1"}, target: {honest, "2"}} {
		alice.Must("PUT", "/v3/rooms/"+string(space)+"/state/m.space.child/"+string(child), map[string]any{"via": []any{at.via.Name}, "order": at.order}, nil)
	}
	// Within the trap it is what the trap says, and stands there once; so the trap is left closed.
	if got := readHierarchy(alice, space, "?max_depth=1").names(); got != "space trap truth" {
		t.Errorf("the space shows %s", got)
	}
}

// TestUnknownIsNotAbsent: that there is no such room is said only if a server says so that was asked. Of one that is down, or
// answers nonsense, it is told that it does, as where somebody joins.
func TestUnknownIsNotAbsent(t *testing.T) {
	s := hstest.NewFederating(t)
	alice := s.Register("alice")
	absent := hstest.Answer(404, map[string]any{"errcode": "M_NOT_FOUND", "error": "no such room"})
	const unreached, nonsense = "no server that could answer was reached", "makes no sense"
	for name, c := range map[string]struct {
		answer                   http.HandlerFunc // nil: the server is down
		summary, hierarchy, join int
		says                     string
	}{
		"is down":          {nil, 502, 502, 502, unreached},
		"fails":            {hstest.Answer(500, map[string]any{"errcode": "M_UNKNOWN", "error": "oh"}), 502, 502, 502, unreached},
		"knows no such":    {hstest.Answer(404, map[string]any{"errcode": "M_UNRECOGNIZED", "error": "what?"}), 502, 502, 502, unreached},
		"knows no room":    {absent, 404, 403, 404, ""},
		"lets nobody look": {hstest.Answer(403, map[string]any{"errcode": "M_FORBIDDEN", "error": "no"}), 404, 403, 403, ""},
		"is not JSON":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, 502, 502, 502, unreached},
		"tells no room":    {hstest.Answer(200, map[string]any{"room": 5, "children": []any{}}), 502, 502, 0, nonsense},
		"tells of another": {hstest.Answer(200, map[string]any{"room": map[string]any{"room_id": "!other:one.test", "join_rule": "public"}, "children": []any{}}), 502, 502, 0, nonsense},
	} {
		t.Run(name, func(t *testing.T) {
			peer := hstest.NewPeer(t, s)
			for _, endpoint := range []string{"hierarchy/{room}", "make_join/{room}/{user}"} {
				if c.answer != nil {
					peer.Handle("GET /_matrix/federation/v1/"+endpoint, c.answer)
				}
			}
			peer.SetDown(c.answer == nil)
			room := "!room:" + string(peer.Name)
			check := func(what, method, path string, want int) {
				t.Helper()
				status, raw := alice.Do(method, path, nil)
				var answer struct {
					Code string `json:"errcode"`
					Text string `json:"error"`
				}
				if err := json.Unmarshal(raw, &answer); err != nil || status != want {
					t.Errorf("%s: %d %s, want %d", what, status, raw, want)
				}
				if want == 502 && (answer.Code != "M_UNKNOWN" || !strings.Contains(answer.Text, c.says)) {
					t.Errorf("%s: %s", what, raw)
				}
			}
			check("the summary", "GET", "/v1/room_summary/"+url.PathEscape(room)+"?via="+string(peer.Name), c.summary)
			check("the hierarchy", "GET", "/v1/rooms/"+url.PathEscape(room)+"/hierarchy", c.hierarchy)
			if c.join != 0 {
				check("a join", "POST", "/v3/join/"+url.PathEscape(room)+"?via="+string(peer.Name), c.join)
			}
			// Another one may know the room that this one has never heard of.
			other := hstest.NewPeer(t, s)
			other.Handle("GET /_matrix/federation/v1/hierarchy/{room}", absent)
			check("the summary, with another server", "GET", "/v1/room_summary/"+url.PathEscape(room)+"?via="+string(other.Name)+"&via="+string(peer.Name), c.summary)
		})
	}
}
