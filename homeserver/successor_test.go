package homeserver_test

import (
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// led is the room that an alias leads to.
func led(u *hstest.User, alias string) id.RoomID {
	var found struct {
		Room id.RoomID `json:"room_id"`
	}
	u.Must("GET", "/v3/directory/room/%23"+alias[1:], nil, &found)
	return found.Room
}

func listed(u *hstest.User, room id.RoomID) bool {
	var found struct {
		Visibility string `json:"visibility"`
	}
	u.Must("GET", "/v3/directory/list/room/"+string(room), nil, &found)
	return found.Visibility == "public"
}

// direct are the rooms that a user has marked as direct chats with another one.
func direct(u *hstest.User, with id.UserID) []id.RoomID {
	var all map[id.UserID]any
	u.Must("GET", "/v3/user/"+string(u.ID)+"/account_data/m.direct", nil, &all)
	rooms, _ := all[with].([]any)
	var out []id.RoomID
	for _, r := range rooms {
		out = append(out, id.RoomID(r.(string)))
	}
	return out
}

// TestWhatBelongsToARoomFollows: an upgraded room takes along its place in the lists of public rooms, its aliases and that
// it is a direct chat, on all servers; but not before the old room says which one replaces it.
func TestWhatBelongsToARoomFollows(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		for _, byHand := range []bool{false, true} {
			name := map[bool]string{false: "upgraded", true: "by-hand"}[byHand]
			here, there := "#"+name+":"+string(one.Name), "#"+name+":"+string(two.Name)
			old := alice.CreateRoom(content{"preset": "public_chat", "room_version": "10", "room_alias_name": name})
			bob.Must("POST", "/v3/join/"+string(old)+"?via="+string(one.Name), nil, nil)
			setState(alice, old, "m.room.power_levels", content{
				"users": content{string(alice.ID): 100, string(bob.ID): 100}, "events": content{"m.room.tombstone": 100},
			})
			bob.Await("that he may", func([]byte) bool {
				return stateOf(bob, old, "m.room.power_levels").in("users", string(bob.ID)) == 100.0
			})
			bob.Must("PUT", "/v3/directory/room/%23"+there[1:], content{"room_id": old}, nil)
			public := map[*hstest.User]bool{alice: true, bob: byHand} // on their servers
			for u, is := range public {
				if is {
					u.Must("PUT", "/v3/directory/list/room/"+string(old), content{"visibility": "public"}, nil)
				}
			}
			alice.Must("PUT", "/v3/user/"+string(alice.ID)+"/account_data/m.direct", content{string(bob.ID): []any{old}, "odd": 1}, nil)
			bob.Must("PUT", "/v3/user/"+string(bob.ID)+"/account_data/m.direct", content{string(alice.ID): []any{"!other:x", old}}, nil)

			var next id.RoomID
			join := func() { bob.Must("POST", "/v3/join/"+string(next)+"?via="+string(one.Name), nil, nil) }
			if byHand {
				next = alice.CreateRoom(content{"preset": "public_chat", "creation_content": content{"predecessor": content{"room_id": old}}})
				join()
				if led(bob, there) != old || !listed(bob, old) || listed(bob, next) || slices.Contains(direct(bob, alice.ID), next) {
					t.Error("a room that only calls itself the successor of another one got what belongs to that")
				}
				setState(alice, old, "m.room.tombstone", content{"body": "moved", "replacement_room": next})
			} else {
				next = upgrade(alice, old, content{"new_version": "12"})
				if level := stateOf(alice, next, "m.room.power_levels").in("events", "m.room.tombstone"); level != 150.0 {
					t.Errorf("closing the new room takes the level %v", level)
				}
				join()
			}
			for _, u := range []*hstest.User{alice, bob} {
				alias, with := here, bob.ID
				if u == bob {
					alias, with = there, alice.ID
				}
				u.Await(name+": what belongs to the room", func([]byte) bool {
					return led(u, alias) == next && !listed(u, old) && listed(u, next) == public[u] && slices.Contains(direct(u, with), next)
				})
			}
			if rooms := direct(bob, alice.ID); !slices.Equal(rooms, []id.RoomID{"!other:x", old, next}) {
				t.Errorf("bob's direct chats are %v", rooms)
			}
		}
	})
}

// TestRoomsThatNobodyIsInAreNotListed: nobody could come in through this server.
func TestRoomsThatNobodyIsInAreNotListed(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob, carol := one.Register("alice"), two.Register("bob"), one.Register("carol")
		alone := alice.CreateRoom(content{"preset": "public_chat", "visibility": "public"})
		left := alice.CreateRoom(content{"preset": "public_chat", "visibility": "public"})
		stays := alice.CreateRoom(content{"preset": "public_chat", "visibility": "public"})
		bob.Must("POST", "/v3/join/"+string(left)+"?via="+string(one.Name), nil, nil)
		list := func() (out []id.RoomID) {
			var answer struct {
				Chunk []struct {
					Room id.RoomID `json:"room_id"`
				} `json:"chunk"`
				Total int `json:"total_room_count_estimate"`
			}
			carol.Must("GET", "/v3/publicRooms", nil, &answer)
			for _, r := range answer.Chunk {
				out = append(out, r.Room)
			}
			if answer.Total != len(out) {
				t.Errorf("%d rooms are said to be listed, but %d are", answer.Total, len(out))
			}
			return out
		}
		if got := list(); len(got) != 3 {
			t.Errorf("listed are %v", got)
		}
		for _, room := range []id.RoomID{alone, left} {
			alice.Must("POST", "/v3/rooms/"+string(room)+"/leave", nil, nil)
		}
		if got := list(); !slices.Equal(got, []id.RoomID{stays}) {
			t.Errorf("listed are %v", got)
		}
	})
}
