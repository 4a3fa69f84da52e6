package homeserver_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestJoinWithoutKeys: a room is not entered without the ban of a moderator whose server can't be asked for its key, and is
// entered without a user of such a server who can do nothing there.
func TestJoinWithoutKeys(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, resident *hstest.Peer) {
		alice := s.Register("alice")
		gone, other := hstest.NewPeer(t, s), hstest.NewPeer(t, s)
		gone.SetDown(true)
		for _, banned := range []bool{true, false} {
			r := resident.Create("11", resident.User("admin"))
			mod, mallory, empty := string(gone.User("mod")), string(other.User("mallory")), ""
			levels := r.Event(event.Proto{Type: event.TypePowerLevels, StateKey: &empty, Content: json.RawMessage(`{"users":{"` + string(r.User) + `":100,"` + mod + `":50}}`)})
			build := func(p event.Proto) *event.Event {
				p.RoomID, p.Type, p.Sender, p.OriginServerTS = r.ID, event.TypeMember, id.UserID(mod), time.Now().UnixMilli()
				made, err := event.Build(r.Version, p, gone.Name, gone.Key)
				if err != nil {
					t.Fatal(err)
				}
				return made.Event()
			}
			create, rules := r.State(event.TypeCreate, ""), r.State(event.TypeJoinRules, "")
			join := build(event.Proto{StateKey: &mod, Content: json.RawMessage(`{"membership":"join"}`), PrevEvents: r.Ends(), AuthEvents: []id.EventID{create.ID, rules.ID, levels.ID}, Depth: 10})
			ban := build(event.Proto{StateKey: &mallory, Content: json.RawMessage(`{"membership":"ban"}`), PrevEvents: []id.EventID{join.ID}, AuthEvents: []id.EventID{create.ID, join.ID, levels.ID}, Depth: 11})
			resident.Handle("PUT /_matrix/federation/v2/send_join/{room}/{event}", func(w http.ResponseWriter, q *http.Request) {
				rec := httptest.NewRecorder()
				resident.Honest(rec, q)
				var answer map[string]json.RawMessage
				var state []json.RawMessage
				if json.Unmarshal(rec.Body.Bytes(), &answer) != nil || json.Unmarshal(answer["state"], &state) != nil {
					t.Error(rec.Body.String())
				}
				if state = append(state, json.RawMessage(join.JSON)); banned {
					state = append(state, json.RawMessage(ban.JSON))
				}
				answer["state"], _ = json.Marshal(state)
				_ = json.NewEncoder(w).Encode(answer)
			})
			path := "/v3/join/" + url.PathEscape(string(r.ID)) + "?server_name=" + url.QueryEscape(string(resident.Name))
			status, answer := alice.Do("POST", path, map[string]any{})
			switch {
			case !banned && status != http.StatusOK:
				t.Errorf("without a member: %d %s", status, answer)
			case banned && (status != http.StatusBadGateway || !strings.Contains(string(answer), string(gone.Name))):
				t.Errorf("without a ban: %d %s", status, answer)
			}
			if status, _ := other.Do("GET", "/v1/make_join/"+url.PathEscape(string(r.ID))+"/"+url.PathEscape(mallory)+"?ver=11", nil); banned && status == http.StatusOK {
				t.Error("the banned user may come in by way of us")
			}
		}
	})
}
