package homeserver_test

import (
	"net/url"
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
