package homeserver_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestUserDirectory: found are those who share a room, those in rooms that are open to all, here and elsewhere, and oneself.
func TestUserDirectory(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, carol, bob := one.Register("alice"), one.Register("carol"), two.Register("bob")
		dave := one.Register("dave")
		name := func(u *hstest.User, name string) {
			u.Must("PUT", "/v3/profile/"+string(u.ID)+"/displayname", map[string]any{"displayname": name}, nil)
		}
		name(bob, "Bob 東京タワー Brandt")
		name(dave, "山田太郎")
		find := func(searcher *hstest.User, term string, want ...id.UserID) {
			t.Helper()
			var got struct {
				Results []struct {
					User id.UserID `json:"user_id"`
					Name string    `json:"display_name"`
				} `json:"results"`
			}
			searcher.Must("POST", "/v3/user_directory/search", map[string]any{"search_term": term}, &got)
			same := len(got.Results) == len(want)
			for i := range want {
				same = same && got.Results[i].User == want[i]
			}
			if !same {
				t.Errorf("%s looks for %q and finds %v, not %v", searcher.ID, term, got.Results, want)
			}
		}
		find(alice, "alice", alice.ID)
		find(carol, "太郎")
		find(carol, "brandt")
		open := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(open)+"?server_name="+string(one.Name), nil, nil)
		dave.CreateRoom(map[string]any{"preset": "private_chat", "initial_state": []any{
			map[string]any{"type": "m.room.history_visibility", "content": map[string]any{"history_visibility": "world_readable"}},
		}})
		for _, searcher := range []*hstest.User{alice, carol} {
			find(searcher, "brandt", bob.ID)
			find(searcher, "タワー", bob.ID)
			find(searcher, "@bob", bob.ID)
			find(searcher, "太郎", dave.ID)
		}
		find(carol, "alice", alice.ID)
		find(bob, "alice", alice.ID)
	})
}

// TestLargeMembersAreNotLookedAt: what a stranger's member event is padded with is not read for others' searches.
func TestLargeMembersAreNotLookedAt(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		s := hstest.NewFederating(t, hstest.Database(address))
		alice := s.Register("alice")
		peer := hstest.NewPeer(t, s)
		r := peer.Create("11", peer.User("admin"))
		for name, padding := range map[string]int{"normal": 0, "padded": 60_000} {
			user := peer.User(name)
			key := string(user)
			r.Event(event.Proto{Type: event.TypeMember, Sender: user, StateKey: &key, Content: fmt.Appendf(nil, `{"membership":"join","displayname":"The %s one","x":%q}`, name, strings.Repeat("x", padding))})
		}
		alice.Must("POST", "/v3/join/"+url.PathEscape(string(r.ID))+"?server_name="+url.QueryEscape(string(peer.Name)), map[string]any{}, nil)
		for term, want := range map[string]int{"normal one": 1, "padded one": 0, "padded": 1} {
			var got struct{ Results []any }
			alice.Must("POST", "/v3/user_directory/search", map[string]any{"search_term": term}, &got)
			if len(got.Results) != want {
				t.Errorf("%d users are found by %q, want %d", len(got.Results), term, want)
			}
		}
	})
}

// TestUsersAreFoundBesideACrowd: however many users of other servers are in a room that is open to all, those of the searcher's
// own rooms are found by name, those of the crowd by ID, and nobody in rooms of others.
func TestUsersAreFoundBesideACrowd(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, carol, bob := one.Register("alice"), one.Register("carol"), two.Register("bob")
		bob.Must("PUT", "/v3/profile/"+string(bob.ID)+"/displayname", map[string]any{"displayname": "Brandt"}, nil)
		room := alice.CreateRoom(map[string]any{"preset": "private_chat", "invite": []any{bob.ID}})
		bob.Must("POST", "/v3/join/"+string(room)+"?server_name="+string(one.Name), nil, nil)
		open := carol.CreateRoom(map[string]any{"preset": "public_chat"})
		err := one.Store.Update(t.Context(), func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(open)
			if err != nil {
				return err
			}
			position := stream.Position(1 << 40)
			for i := range 5_200 {
				user := id.UserID(fmt.Sprintf("@crowd%d:elsewhere.example.com", i))
				if err := tx.Memberships.Set(store.Membership{Room: r.NID, User: user, Membership: "join", Position: position}, "", false); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			searcher *hstest.User
			term     string
			want     id.UserID
		}{
			{alice, "brandt", bob.ID}, {alice, "@bob", bob.ID}, {carol, "brandt", ""}, {carol, "@bob", ""}, {carol, string(bob.ID), ""},
			{alice, "crowd2", "@crowd2:elsewhere.example.com"}, {carol, "@crowd5199:elsewhere", "@crowd5199:elsewhere.example.com"},
		} {
			var got struct {
				Results []struct {
					User id.UserID `json:"user_id"`
				}
				Limited bool
			}
			c.searcher.Must("POST", "/v3/user_directory/search", map[string]any{"search_term": c.term}, &got)
			if !got.Limited || (c.want == "") != (len(got.Results) == 0) || c.want != "" && got.Results[0].User != c.want {
				t.Errorf("%s looks for %q and finds %+v, not %q first", c.searcher.ID, c.term, got, c.want)
			}
		}
	})
}
