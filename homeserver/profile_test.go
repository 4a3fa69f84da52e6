package homeserver_test

import (
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
)

// awaitMember waits until a user is shown in a room as said.
func awaitMember(u *hstest.User, roomID id.RoomID, who id.UserID, what string, seen func(member content) bool) {
	u.Await(what, func([]byte) bool {
		var member content
		u.Must("GET", "/v3/rooms/"+string(roomID)+"/state/m.room.member/"+string(who), nil, &member)
		return seen(member)
	})
}

// TestAvatarsLeaveNamesOfRooms: each field that a user changes comes into the rooms, and nothing else does.
func TestAvatarsLeaveNamesOfRooms(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		profile := "/v3/profile/" + string(alice.ID) + "/"
		is := func(name, avatar any) func(content) bool {
			return func(member content) bool { return member["displayname"] == name && member["avatar_url"] == avatar }
		}
		plain := alice.CreateRoom(content{})
		alice.Must("PUT", profile+"displayname", content{"displayname": "Alice"}, nil)
		awaitMember(alice, plain, alice.ID, "the first name", is("Alice", nil)) // rooms made from here on are not told of it
		named := alice.CreateRoom(content{})
		alice.Must("PUT", "/v3/rooms/"+string(named)+"/state/m.room.member/"+string(alice.ID), content{
			"membership": "join", "displayname": "the boss", "org.example.mine": 1, "reason": "because",
		}, nil)
		alice.Must("PUT", profile+"avatar_url", content{"avatar_url": "mxc://one.test/a"}, nil)
		awaitMember(alice, plain, alice.ID, "the avatar", is("Alice", "mxc://one.test/a"))
		awaitMember(alice, named, alice.ID, "the avatar beside the name of the room", func(member content) bool {
			return is("the boss", "mxc://one.test/a")(member) && member["org.example.mine"] == 1.0 && member["reason"] == nil
		})
		alice.Must("DELETE", profile+"avatar_url", nil, nil)
		awaitMember(alice, named, alice.ID, "no avatar", is("the boss", nil))
		alice.Must("PUT", profile+"displayname", content{"displayname": "Alice B."}, nil)
		awaitMember(alice, named, alice.ID, "the new name", is("Alice B.", nil))
		awaitMember(alice, plain, alice.ID, "the new name", is("Alice B.", nil))
	})
}

// TestProfilesChangedBesideAJoin: a room that a user comes into with a profile that was read before it changed shows the
// new one in the end. What another room shows by the user's choice stays.
func TestProfilesChangedBesideAJoin(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		chosen := bob.CreateRoom(content{})
		bob.Must("PUT", "/v3/profile/"+string(bob.ID)+"/displayname", content{"displayname": "Bob"}, nil)
		awaitMember(bob, chosen, bob.ID, "the first name", func(member content) bool { return member["displayname"] == "Bob" })
		bob.Must("PUT", "/v3/rooms/"+string(chosen)+"/state/m.room.member/"+string(bob.ID), content{"membership": "join", "displayname": "Bobby"}, nil)
		remote := alice.CreateRoom(content{"preset": "public_chat"})
		carol := two.Register("carol")
		hosted := carol.CreateRoom(content{"preset": "public_chat"})
		old := room.Profile{DisplayName: "what was read before"}
		for _, to := range []id.RoomID{remote, hosted} {
			c := room.Change{Room: to, Sender: bob.ID, Target: bob.ID, Profile: old, Via: []id.ServerName{one.Name}}
			if err := two.Rooms.Join(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			awaitMember(bob, to, bob.ID, "the new name", func(member content) bool { return member["displayname"] == "Bob" })
		}
		made, err := two.Rooms.Create(t.Context(), room.Creation{Creator: bob.ID, Profile: old}, nil)
		if err != nil {
			t.Fatal(err)
		}
		awaitMember(bob, made, bob.ID, "the new name", func(member content) bool { return member["displayname"] == "Bob" })
		awaitMember(alice, remote, bob.ID, "the new name", func(member content) bool { return member["displayname"] == "Bob" })
		awaitMember(bob, chosen, bob.ID, "the chosen name", func(member content) bool { return member["displayname"] == "Bobby" })
	})
}
