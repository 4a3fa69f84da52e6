package clientapi_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/clientapi"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestUnstableParameters asks by each unstable name and by the stable one: the answers are the same, but for the names of
// members that clients look for under an unstable name.
func TestUnstableParameters(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{"name": "A"})
		root := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "root"})
		related := func(to id.EventID, text string) id.EventID {
			return alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text,
				"m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": to}})
		}
		related(related(root, "one"), "two")
		related(root, "three")
		relations := fmt.Sprintf("/v1/rooms/%s/relations/%s", room, root)
		cases := map[string]struct {
			path, stable, value string
			renamed             []string // members of the answer, by their stable names and by those that are looked for
		}{
			"org.matrix.msc4222.use_state_after": {"/v3/sync", "use_state_after", "true", []string{"state_after", "org.matrix.msc4222.state_after"}},
			"org.matrix.msc3715.dir":             {relations, "dir", "f", nil},
			"org.matrix.msc3981.recurse":         {relations, "recurse", "true", nil},
		}
		names := clientapi.UnstableParameters()
		if len(names) != len(cases) {
			t.Errorf("%d names are understood, and %d are tried", len(names), len(cases))
		}
		for _, name := range names {
			c, ok := cases[name]
			if !ok {
				t.Errorf("%s is not tried", name)
				continue
			}
			without, by := get(alice, c.path), get(alice, c.path+"?"+name+"="+c.value)
			stable := get(alice, c.path+"?"+c.stable+"="+c.value)
			if stable == without {
				t.Errorf("%s changes nothing, so that nothing is shown", c.stable)
			}
			for pair := range slices.Chunk(c.renamed, 2) {
				if !strings.Contains(stable, `"`+pair[0]+`":`) || strings.Contains(by, `"`+pair[0]+`":`) {
					t.Errorf("who asks by %s is answered by %s", name, pair[0])
				}
				stable = strings.ReplaceAll(stable, `"`+pair[0]+`":`, `"`+pair[1]+`":`)
			}
			if by != stable {
				t.Errorf("%s is answered with\n%s, not\n%s", name, by, stable)
			}
			if both := get(alice, c.path+"?"+name+"=x&"+c.stable+"="+c.value); len(c.renamed) == 0 && both != stable {
				t.Errorf("%s changes what is asked by %s", name, c.stable)
			}
			alice.Refused("GET", c.path+"?"+name+"=x", nil, 400, "M_INVALID_PARAM")
		}
	})
}

var age = regexp.MustCompile(`"age":\d+,?`)

// get is an answer with its members in order, without what differs from call to call.
func get(u *hstest.User, path string) string {
	var answer map[string]any
	u.Must("GET", path, nil, &answer)
	for _, changing := range []string{"next_batch", "presence"} {
		delete(answer, changing)
	}
	raw, _ := json.Marshal(answer) // it was JSON
	return age.ReplaceAllString(string(raw), "")
}
