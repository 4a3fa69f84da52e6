package homeserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

type hierarchy struct {
	Rooms []struct {
		RoomID   id.RoomID `json:"room_id"`
		Name     string    `json:"name"`
		Children []struct {
			StateKey string `json:"state_key"`
			At       int64  `json:"origin_server_ts"`
		} `json:"children_state"`
	} `json:"rooms"`
	NextBatch string `json:"next_batch"`
}

func (h *hierarchy) names() string {
	var out []string
	for _, r := range h.Rooms {
		out = append(out, r.Name)
	}
	return strings.Join(out, " ")
}

func readHierarchy(u *hstest.User, room id.RoomID, query string) *hierarchy {
	var h hierarchy
	u.Must("GET", "/v1/rooms/"+string(room)+"/hierarchy"+query, nil, &h)
	return &h
}

func makeSpaceRoom(u *hstest.User, name, preset, typ string, state ...any) id.RoomID {
	creation := map[string]any{}
	if typ != "" {
		creation["type"] = typ
	}
	return u.CreateRoom(map[string]any{"name": name, "preset": preset, "creation_content": creation, "initial_state": state})
}

func addChild(u *hstest.User, space, child id.RoomID, content map[string]any) {
	content["via"] = []any{u.ID.Server()}
	u.Must("PUT", "/v3/rooms/"+string(space)+"/state/m.space.child/"+string(child), content, nil)
}

func TestHierarchy(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		root := makeSpaceRoom(alice, "root", "public_chat", "m.space")
		open := makeSpaceRoom(alice, "open", "public_chat", "")
		sub := makeSpaceRoom(alice, "sub", "public_chat", "m.space")
		secret := makeSpaceRoom(alice, "secret", "private_chat", "")
		restricted := makeSpaceRoom(alice, "restricted", "private_chat", "", map[string]any{
			"type": "m.room.join_rules", "state_key": "", "content": map[string]any{
				"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": root}},
			},
		})
		addChild(alice, root, open, map[string]any{"suggested": true, "order": "c"})
		addChild(alice, root, sub, map[string]any{"order": "b"})
		addChild(alice, root, secret, map[string]any{"order": "a"})
		addChild(alice, sub, restricted, map[string]any{})
		addChild(alice, sub, root, map[string]any{}) // a loop
		addChild(alice, open, secret, map[string]any{})

		if got := readHierarchy(alice, root, "").names(); got != "root secret sub restricted open" {
			t.Errorf("the whole: %s", got)
		}
		h := readHierarchy(bob, root, "")
		if got := h.names(); got != "root sub open" {
			t.Errorf("for who is in no room: %s", got)
		}
		if c := h.Rooms[0].Children; len(c) != 3 || c[0].StateKey != string(secret) || c[0].At == 0 {
			t.Errorf("children of the root: %+v", c)
		}
		if c := h.Rooms[2].Children; len(c) != 0 {
			t.Errorf("what is no space has children: %+v", c)
		}
		bob.Must("POST", "/v3/join/"+string(root), nil, nil)
		if got := readHierarchy(bob, root, "").names(); got != "root sub restricted open" {
			t.Errorf("for a member of the space: %s", got)
		}
		if got := readHierarchy(alice, root, "?max_depth=1").names(); got != "root secret sub open" {
			t.Errorf("depth 1: %s", got)
		}
		if got := readHierarchy(alice, root, "?suggested_only=true").names(); got != "root open" {
			t.Errorf("suggested: %s", got)
		}
		page := readHierarchy(alice, root, "?limit=3")
		if got := page.names(); got != "root secret sub" || page.NextBatch == "" {
			t.Errorf("first page: %s, %q", got, page.NextBatch)
		}
		alice.Refused("GET", "/v1/rooms/"+string(root)+"/hierarchy?max_depth=1&from="+page.NextBatch, nil, 400, "M_INVALID_PARAM")
		if page = readHierarchy(alice, root, "?from="+page.NextBatch); page.names() != "restricted open" || page.NextBatch != "" {
			t.Errorf("second page: %s, %q", page.names(), page.NextBatch)
		}
		bob.Refused("GET", "/v1/rooms/"+string(secret)+"/hierarchy", nil, 403, "M_FORBIDDEN")
		bob.Refused("GET", "/v1/rooms/!nosuch/hierarchy", nil, 403, "M_FORBIDDEN")
		alice.Refused("GET", "/v1/rooms/"+string(root)+"/hierarchy?limit=0", nil, 400, "M_INVALID_PARAM")
	})
}

func TestRoomSummary(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob, nobody := s.Register("alice"), s.Register("bob"), &hstest.User{Server: s}
		open := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_alias_name": "open", "name": "open"})
		secret := makeSpaceRoom(alice, "secret", "private_chat", "")
		restricted := makeSpaceRoom(alice, "restricted", "private_chat", "", map[string]any{
			"type": "m.room.join_rules", "state_key": "", "content": map[string]any{
				"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": open}},
			},
		})
		type summary struct {
			RoomID     id.RoomID   `json:"room_id"`
			Membership string      `json:"membership"`
			Allowed    []id.RoomID `json:"allowed_room_ids"`
			Version    string      `json:"room_version"`
		}
		read := func(u *hstest.User, room string) (out summary) {
			t.Helper()
			u.Must("GET", "/v1/room_summary/"+room, nil, &out)
			return out
		}
		if got := read(alice, string(restricted)); got.Membership != "join" || len(got.Allowed) != 1 || got.Allowed[0] != open || got.Version != "12" {
			t.Errorf("restricted: %+v", got)
		}
		if got := read(bob, "%23open:"+string(s.Name)); got.RoomID != open || got.Membership != "leave" || got.Allowed != nil {
			t.Errorf("by alias: %+v", got)
		}
		if got := read(nobody, string(open)); got.Membership != "" {
			t.Errorf("without a token: %+v", got)
		}
		bob.Refused("GET", "/v1/room_summary/"+string(secret), nil, 404, "M_NOT_FOUND")
		bob.Refused("GET", "/v1/room_summary/"+string(restricted), nil, 404, "M_NOT_FOUND")
		bob.Refused("GET", "/v1/room_summary/!nosuch:elsewhere.test", nil, 404, "M_NOT_FOUND")
		alice.Must("POST", "/v3/rooms/"+string(secret)+"/invite", map[string]any{"user_id": bob.ID}, nil)
		if got := read(bob, string(secret)); got.Membership != "invite" {
			t.Errorf("invited: %+v", got)
		}
		alice.Must("POST", "/v3/rooms/"+string(open)+"/ban", map[string]any{"user_id": bob.ID}, nil)
		bob.Refused("GET", "/v1/room_summary/"+string(open), nil, 404, "M_NOT_FOUND")
	})
}

func TestHierarchyOfTwoServers(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		root := makeSpaceRoom(alice, "root", "public_chat", "m.space")
		far := makeSpaceRoom(bob, "far", "public_chat", "m.space")
		room := makeSpaceRoom(bob, "room", "public_chat", "")
		secret := makeSpaceRoom(bob, "secret", "private_chat", "")
		back := makeSpaceRoom(alice, "back", "public_chat", "")
		alice.Must("PUT", "/v3/rooms/"+string(root)+"/state/m.space.child/"+string(far), map[string]any{"via": []any{two.Name}}, nil)
		addChild(bob, far, room, map[string]any{"order": "a"})
		addChild(bob, far, secret, map[string]any{"order": "b"})
		bob.Must("PUT", "/v3/rooms/"+string(far)+"/state/m.space.child/"+string(back), map[string]any{"via": []any{one.Name}, "order": "c"}, nil)
		if got := readHierarchy(alice, root, "").names(); got != "root far room back" {
			t.Errorf("across servers: %s", got)
		}
		var summary struct {
			Name string `json:"name"`
		}
		alice.Must("GET", "/v1/room_summary/"+string(room)+"?via="+string(two.Name), nil, &summary)
		if summary.Name != "room" {
			t.Errorf("a room elsewhere is named %q", summary.Name)
		}
		(&hstest.User{Server: one}).Refused("GET", "/v1/room_summary/"+string(room)+"?via="+string(two.Name), nil, 404, "M_NOT_FOUND")
	})
}

// TestLargeSpaces: pages of spaces with large children, and of rooms with large topics, are bounded in bytes, and nothing is
// missing from all of them together.
func TestLargeSpaces(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		root := makeSpaceRoom(alice, "root", "public_chat", "m.space")
		const spaces, children = 6, 20
		large := strings.Repeat("x", 60_000)
		for i := range spaces {
			sub := makeSpaceRoom(alice, fmt.Sprint("sub", i), "public_chat", "m.space")
			addChild(alice, root, sub, map[string]any{"order": fmt.Sprint(i)})
			for j := range children {
				addChild(alice, sub, id.RoomID(fmt.Sprintf("!nowhere%02d:%s", j, s.Name)), map[string]any{"padding": large, "order": fmt.Sprintf("%02d", children-j)})
			}
		}
		var names []string
		for from := ""; ; {
			status, raw := alice.Do("GET", "/v1/rooms/"+string(root)+"/hierarchy"+from, nil)
			var page hierarchy
			if err := json.Unmarshal(raw, &page); err != nil || status != 200 {
				t.Fatal(status, err)
			}
			if len(raw) > 5<<20+1<<16 {
				t.Errorf("a page has %d bytes", len(raw))
			}
			names = append(names, page.names())
			for _, r := range page.Rooms {
				if n := len(r.Children); r.RoomID != root && (n < 10 || n >= children || r.Children[0].StateKey != "!nowhere19:"+string(s.Name)) {
					t.Errorf("%d children of %s count", n, r.Name)
				}
			}
			if page.NextBatch == "" {
				break
			}
			from = "?from=" + page.NextBatch
		}
		if got := strings.Join(names, " "); len(names) < 2 || got != "root sub0 sub1 sub2 sub3 sub4 sub5" {
			t.Errorf("pages are %q", names)
		}
	})
}
