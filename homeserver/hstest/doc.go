// Package hstest runs whole servers in a test's own process: New starts one, Pair two that federate over TLS, and
// NewFederating one for hostile peers. EachWithPeer gives both, on both databases.
//
// Tests of every layer above the domain packages use it. It is the real thing: the composition root with a
// configuration, a database of the test's own, and listeners on loopback.
//
// # The hostile peer
//
// A Peer is a federated server under the test's control: real TLS, real keys, and no conscience.
//
//	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, evil *hstest.Peer) {
//		alice := s.Register("alice")
//		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "11"})
//		room := evil.Join(roomID, evil.User("eve"))
//
//		first := room.Message("hello")                                     // made, signed, and an end of the room
//		fork := room.Event(event.Proto{Type: "org.example", PrevEvents: first.PrevEvents}) // beside it
//		refused := evil.Send(first, fork)                                  // reasons by event
//		evil.SendJSON(room.Forge(event.Proto{Type: "m.room.message"}, map[string]any{"depth": "deep"}))
//
//		evil.Handle("GET /_matrix/federation/v1/state_ids/{room}", hstest.Answer(500, map[string]any{})) // it lies
//		evil.Handle("GET /_matrix/federation/v1/event/{event}", evil.Silent)                             // it is slow
//		evil.Handle("GET /_matrix/federation/v1/media/download/{id}", evil.Trickle("text/plain", nil, []byte(" "), time.Second))
//		evil.SetDown(true)                                                                               // it is down
//		evil.Handle("GET /_matrix/federation/v1/event/{event}", nil)                                     // honest again
//
//		evil.Do("GET", "/v1/query/profile?user_id="+url.QueryEscape(string(alice.ID)), nil)              // any request
//		evil.Try(hstest.Slowly(evil.Request("PUT", "/v1/send/x", body), 1, time.Second))                 // byte by byte
//	})
//
// Join, Create and Event keep what the peer knows of a room, along with what it is sent, and answer from it: /event,
// /state, /state_ids, /event_auth, /backfill, /get_missing_events, /make_join and the like. Create makes a room that
// users of the server under test can join. Await, Asked, EDUs and Room.Known show what came in. From sends requests
// from another address of the loopback network. Several peers of one server have different names.
package hstest
