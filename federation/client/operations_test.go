package client_test

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	room  = id.RoomID("!a/b:one.test")
	event = id.EventID("$c+d/e:one.test")
	user  = id.UserID("@f g:one.test")
	one   = id.ServerName("one.test")
	f1    = "/_matrix/federation/v1"
	f2    = "/_matrix/federation/v2"
	// As they stand in a path.
	roomPath  = "/%21a%2Fb:one.test"
	eventPath = "/$c+d%2Fe:one.test"
	userPath  = "/@f%20g:one.test"
)

func raw(s string) json.RawMessage { return json.RawMessage(s) }

func raws(list ...string) []json.RawMessage {
	var out []json.RawMessage
	for _, s := range list {
		out = append(out, raw(s))
	}
	return out
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	if a == "" || b == "" {
		return a == b
	}
	left, err := canonicaljson.CanonicalizeLenient([]byte(a))
	if err != nil {
		t.Error(err)
	}
	right, err := canonicaljson.CanonicalizeLenient([]byte(b))
	if err != nil {
		t.Error(err)
	}
	return string(left) == string(right)
}

// operation is one method of the client, the request that it must make, and what it must make of the answer.
type operation struct {
	name string
	exchange
	call func(ctx context.Context, c *client.Client) (any, error)
	want any
}

func run(t *testing.T, operations []operation) {
	handler := &delegate{}
	w := newWorld(t, handler)
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			handler.set(o.serve(t, one, w.client.Key.Public()))
			got, err := o.call(t.Context(), w.client)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, o.want) {
				t.Errorf("got %+v\nwant %+v", got, o.want)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	run(t, []operation{
		{
			"ServerKeys",
			exchange{method: "GET", uri: "/_matrix/key/v2/server", unsigned: true, answer: `{"server_name":"one.test"}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.ServerKeys(ctx, one) },
			raw(`{"server_name":"one.test"}`),
		}, {
			"NotaryQuery",
			exchange{
				method: "POST", uri: "/_matrix/key/v2/query", unsigned: true,
				body:   `{"server_keys":{"a":{"ed25519:k":{"minimum_valid_until_ts":5},"ed25519:l":{}},"b":{}}}`,
				answer: `{"server_keys":[{"a":1},{"b":2}]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.NotaryQuery(ctx, one, map[id.ServerName]map[id.KeyID]client.KeyCriteria{
					"a": {"ed25519:k": {MinimumValidUntil: 5}, "ed25519:l": {}}, "b": nil,
				})
			},
			raws(`{"a":1}`, `{"b":2}`),
		}, {
			"UserDevices",
			exchange{
				method: "GET", uri: f1 + "/user/devices" + userPath,
				answer: `{"user_id":"@f g:one.test","stream_id":5,"devices":[{"device_id":"D","keys":{"k":1},"device_display_name":"n"}],"master_key":{"m":1}}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) { return c.UserDevices(ctx, one, user) },
			client.UserDevices{
				UserID: user, StreamID: 5, MasterKey: raw(`{"m":1}`),
				Devices: []client.UserDevice{{DeviceID: "D", Keys: raw(`{"k":1}`), DisplayName: "n"}},
			},
		}, {
			"KeysQuery leaves out who was not asked for",
			exchange{
				method: "POST", uri: f1 + "/user/keys/query", body: `{"device_keys":{"@f g:one.test":[],"@g:one.test":["D"]}}`,
				answer: `{"device_keys":{"@g:one.test":{"D":{"k":1}},"@evil:two.test":{"D":{}}},` +
					`"master_keys":{"@g:one.test":{"m":1},"@evil:two.test":{}},"self_signing_keys":{"@g:one.test":{"s":1},"@evil:two.test":{}}}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.KeysQuery(ctx, one, map[id.UserID][]id.DeviceID{user: nil, "@g:one.test": {"D"}})
			},
			client.QueriedKeys{
				DeviceKeys:      map[id.UserID]map[id.DeviceID]json.RawMessage{"@g:one.test": {"D": raw(`{"k":1}`)}},
				MasterKeys:      map[id.UserID]json.RawMessage{"@g:one.test": raw(`{"m":1}`)},
				SelfSigningKeys: map[id.UserID]json.RawMessage{"@g:one.test": raw(`{"s":1}`)},
			},
		}, {
			"KeysClaim leaves out who was not asked for",
			exchange{
				method: "POST", uri: f1 + "/user/keys/claim", body: `{"one_time_keys":{"@f g:one.test":{"D":"signed_curve25519"}}}`,
				answer: `{"one_time_keys":{"@f g:one.test":{"D":{"signed_curve25519:A":{"key":"k"}}},"@evil:two.test":{}}}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.KeysClaim(ctx, one, map[id.UserID]map[id.DeviceID]string{user: {"D": "signed_curve25519"}})
			},
			client.ClaimedKeys{user: {"D": {"signed_curve25519:A": raw(`{"key":"k"}`)}}},
		},
	})
}

func TestMembership(t *testing.T) {
	template := client.Template{RoomVersion: "12", Event: raw(`{"t":1}`)}
	const answer = `{"room_version":"12","event":{"t":1}}`
	run(t, []operation{
		{
			"MakeJoin", exchange{method: "GET", uri: f1 + "/make_join" + roomPath + userPath + "?ver=11&ver=12", answer: answer},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.MakeJoin(ctx, one, room, user, []id.RoomVersion{"11", "12"})
			},
			template,
		}, {
			"MakeJoin of a room without version", exchange{method: "GET", uri: f1 + "/make_join" + roomPath + userPath, answer: `{"event":{}}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.MakeJoin(ctx, one, room, user, nil) },
			client.Template{RoomVersion: "1", Event: raw(`{}`)},
		}, {
			"MakeKnock", exchange{method: "GET", uri: f1 + "/make_knock" + roomPath + userPath + "?ver=12", answer: answer},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.MakeKnock(ctx, one, room, user, []id.RoomVersion{"12"})
			},
			template,
		}, {
			"MakeLeave", exchange{method: "GET", uri: f1 + "/make_leave" + roomPath + userPath, answer: answer},
			func(ctx context.Context, c *client.Client) (any, error) { return c.MakeLeave(ctx, one, room, user) },
			template,
		}, {
			"SendJoin", exchange{
				method: "PUT", uri: f2 + "/send_join" + roomPath + eventPath, body: `{"j":"<"}`,
				answer: `{"auth_chain":[{"a":1}],"state":[{"s":1},{"s":2}],"event":{"e":1}}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.SendJoin(ctx, one, room, event, raw(`{"j":"<"}`), false)
			},
			client.JoinResult{AuthChain: raws(`{"a":1}`), State: raws(`{"s":1}`, `{"s":2}`), Event: raw(`{"e":1}`)},
		}, {
			"SendJoin with members omitted", exchange{
				method: "PUT", uri: f2 + "/send_join" + roomPath + eventPath + "?omit_members=true", body: `{}`,
				answer: `{"auth_chain":[],"state":[],"members_omitted":true,"servers_in_room":["one.test","no/name","two.test:1"]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.SendJoin(ctx, one, room, event, raw(`{}`), true)
			},
			client.JoinResult{AuthChain: []json.RawMessage{}, State: []json.RawMessage{}, MembersOmitted: true, ServersInRoom: []id.ServerName{one, "two.test:1"}},
		}, {
			"SendLeave", exchange{method: "PUT", uri: f2 + "/send_leave" + roomPath + eventPath, body: `{"l":1}`, answer: `{}`},
			func(ctx context.Context, c *client.Client) (any, error) {
				return nil, c.SendLeave(ctx, one, room, event, raw(`{"l":1}`))
			},
			nil,
		}, {
			"SendKnock", exchange{
				method: "PUT", uri: f1 + "/send_knock" + roomPath + eventPath, body: `{"k":1}`, answer: `{"knock_room_state":[{"s":1}]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.SendKnock(ctx, one, room, event, raw(`{"k":1}`))
			},
			raws(`{"s":1}`),
		}, {
			"Invite", exchange{
				method: "PUT", uri: f2 + "/invite" + roomPath + eventPath, answer: `{"event":{"signed":1}}`,
				body: `{"room_version":"12","event":{"e":1},"invite_room_state":[{"s":1}]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.Invite(ctx, one, room, event, client.Invite{RoomVersion: "12", Event: raw(`{"e":1}`), RoomState: raws(`{"s":1}`)})
			},
			raw(`{"signed":1}`),
		},
	})
}

func TestEvents(t *testing.T) {
	run(t, []operation{
		{
			"SendTransaction", exchange{
				method: "PUT", uri: f1 + "/send/t%2F1", answer: `{"pdus":{"$a":{},"$b":{"error":"no"}}}`,
				body: `{"origin":"us.test","origin_server_ts":5,"pdus":[{"p":1},{"p":1.5}],"edus":[{"e":1}]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				result, err := c.SendTransaction(ctx, one, "t/1", client.Transaction{OriginServerTS: 5, PDUs: raws(`{"p":1}`, `{"p":1.5}`), EDUs: raws(`{"e":1}`)})
				return []string{result.PDUs["$a"].Error, result.PDUs["$b"].Error}, err
			},
			[]string{"", "no"},
		}, {
			"SendTransaction of nothing", exchange{
				method: "PUT", uri: f1 + "/send/t", answer: `{"pdus":{}}`, body: `{"origin":"us.test","origin_server_ts":0,"pdus":[],"edus":[]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				result, err := c.SendTransaction(ctx, one, "t", client.Transaction{})
				return len(result.PDUs), err
			},
			0,
		}, {
			"Event", exchange{method: "GET", uri: f1 + "/event" + eventPath, answer: `{"origin":"one.test","origin_server_ts":1,"pdus":[{"e":1}]}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Event(ctx, one, event) },
			raw(`{"e":1}`),
		}, {
			"EventAuth", exchange{method: "GET", uri: f1 + "/event_auth" + roomPath + eventPath, answer: `{"auth_chain":[{"e":1}]}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.EventAuth(ctx, one, room, event) },
			raws(`{"e":1}`),
		}, {
			"State", exchange{method: "GET", uri: f1 + "/state" + roomPath + "?event_id=%24c%2Bd%2Fe%3Aone.test", answer: `{"pdus":[{"e":1}],"auth_chain":[{"e":2}]}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.State(ctx, one, room, event) },
			client.RoomState{PDUs: raws(`{"e":1}`), AuthChain: raws(`{"e":2}`)},
		}, {
			"StateIDs", exchange{
				method: "GET", uri: f1 + "/state_ids" + roomPath + "?event_id=%24c%2Bd%2Fe%3Aone.test",
				answer: `{"pdu_ids":["$a","nothing","$b"],"auth_chain_ids":["$c"]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) { return c.StateIDs(ctx, one, room, event) },
			client.RoomStateIDs{PDUIDs: []id.EventID{"$a", "$b"}, AuthChainIDs: []id.EventID{"$c"}},
		}, {
			"Backfill", exchange{method: "GET", uri: f1 + "/backfill" + roomPath + "?limit=7&v=%24a&v=%24b", answer: `{"pdus":[{"e":1},{"e":2}]}`},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.Backfill(ctx, one, room, []id.EventID{"$a", "$b"}, 7)
			},
			raws(`{"e":1}`, `{"e":2}`),
		}, {
			"MissingEvents", exchange{
				method: "POST", uri: f1 + "/get_missing_events" + roomPath, answer: `{"events":[{"e":1}]}`,
				body: `{"earliest_events":[],"latest_events":["$b"],"limit":7,"min_depth":3}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.MissingEvents(ctx, one, room, client.MissingEvents{LatestEvents: []id.EventID{"$b"}, Limit: 7, MinDepth: 3})
			},
			raws(`{"e":1}`),
		}, {
			"TimestampToEvent", exchange{method: "GET", uri: f1 + "/timestamp_to_event" + roomPath + "?dir=f&ts=5", answer: `{"event_id":"$a","origin_server_ts":6}`},
			func(ctx context.Context, c *client.Client) (any, error) {
				found, ts, err := c.TimestampToEvent(ctx, one, room, 5, "f")
				return []any{found, ts}, err
			},
			[]any{id.EventID("$a"), int64(6)},
		},
	})
}

func TestQueries(t *testing.T) {
	total := int64(9)
	run(t, []operation{
		{
			"Profile", exchange{method: "GET", uri: f1 + "/query/profile?user_id=%40f+g%3Aone.test", answer: `{"displayname":"F","x":[1]}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Profile(ctx, one, user, "") },
			map[string]json.RawMessage{"displayname": raw(`"F"`), "x": raw(`[1]`)},
		}, {
			"Profile, one field", exchange{method: "GET", uri: f1 + "/query/profile?field=m.tz&user_id=%40f+g%3Aone.test", answer: `{}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Profile(ctx, one, user, "m.tz") },
			map[string]json.RawMessage{},
		}, {
			"Directory", exchange{
				method: "GET", uri: f1 + "/query/directory?room_alias=%23a%3Aone.test", answer: `{"room_id":"!r","servers":["one.test","/","two.test"]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Directory(ctx, one, "#a:one.test") },
			client.Directory{RoomID: "!r", Servers: []id.ServerName{"one.test", "two.test"}},
		}, {
			"PublicRooms", exchange{method: "GET", uri: f1 + "/publicRooms", answer: `{"chunk":[{"r":1}],"next_batch":"n","total_room_count_estimate":9}`},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.PublicRooms(ctx, one, client.PublicRoomsQuery{})
			},
			client.PublicRooms{Chunk: raws(`{"r":1}`), NextBatch: "n", Total: &total},
		}, {
			"PublicRooms, all parameters", exchange{
				method: "GET", uri: f1 + "/publicRooms?include_all_networks=true&limit=3&since=s&third_party_instance_id=i", answer: `{"chunk":[]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.PublicRooms(ctx, one, client.PublicRoomsQuery{Limit: 3, Since: "s", IncludeAllNetworks: true, ThirdPartyInstanceID: "i"})
			},
			client.PublicRooms{Chunk: []json.RawMessage{}},
		}, {
			"PublicRooms with a filter", exchange{
				method: "POST", uri: f1 + "/publicRooms", body: `{"limit":3,"filter":{"generic_search_term":"x"}}`, answer: `{"chunk":[],"prev_batch":"p"}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) {
				return c.PublicRooms(ctx, one, client.PublicRoomsQuery{Limit: 3, Filter: raw(`{"generic_search_term":"x"}`)})
			},
			client.PublicRooms{Chunk: []json.RawMessage{}, PrevBatch: "p"},
		}, {
			"Hierarchy", exchange{
				method: "GET", uri: f1 + "/hierarchy" + roomPath + "?suggested_only=true",
				answer: `{"room":{"r":1},"children":[{"c":1}],"inaccessible_children":["!x","y"]}`,
			},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Hierarchy(ctx, one, room, true) },
			client.Hierarchy{Room: raw(`{"r":1}`), Children: raws(`{"c":1}`), InaccessibleChildren: []id.RoomID{"!x"}},
		}, {
			"Version", exchange{method: "GET", uri: f1 + "/version", unsigned: true, answer: `{"server":{"name":"n","version":"v"}}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.Version(ctx, one) },
			client.Version{Name: "n", Version: "v"},
		}, {
			"OpenIDUserInfo", exchange{method: "GET", uri: f1 + "/openid/userinfo?access_token=a%26b", unsigned: true, answer: `{"sub":"@u:one.test"}`},
			func(ctx context.Context, c *client.Client) (any, error) { return c.OpenIDUserInfo(ctx, one, "a&b") },
			id.UserID("@u:one.test"),
		},
	})
}

// Version 1 of invites is for servers that do not know version 2, and for rooms of versions 1 and 2.
func TestInviteFallsBack(t *testing.T) {
	for _, c := range []struct {
		version id.RoomVersion
		status  int
		calls   int
	}{
		{"1", 404, 2}, {"2", 400, 2}, {"2", 405, 2}, {"1", 403, 1}, {"3", 404, 1}, {"12", 400, 1},
	} {
		calls := 0
		handler := &delegate{}
		w := newWorld(t, handler)
		handler.set(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if calls++; calls == 1 {
				out.WriteHeader(c.status)
				return
			}
			exchange{
				method: "PUT", uri: f1 + "/invite" + roomPath + eventPath, answer: `[200,{"event":{"signed":1}}]`,
				body: `{"e":1,"unsigned":{"invite_room_state":[{"s":1}]}}`,
			}.serve(t, one, w.client.Key.Public())(out, r)
		}))
		invite := client.Invite{RoomVersion: c.version, Event: raw(`{"e":1,"unsigned":{"old":1}}`), RoomState: raws(`{"s":1}`)}
		got, err := w.client.Invite(t.Context(), one, room, event, invite)
		if calls != c.calls || (err == nil) != (c.calls == 2) || err == nil && string(got) != `{"signed":1}` {
			t.Errorf("%+v: %d calls, got %s, %v", c, calls, got, err)
		}
	}
}

// Version 1 of what hands in memberships is for servers that say that they do not know version 2.
func TestMembershipsFallBack(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		calls  int
	}{
		{404, `{"errcode":"M_UNRECOGNIZED"}`, 2}, {404, `404 page not found`, 2}, {405, `{"errcode":"M_UNRECOGNIZED"}`, 2}, {400, `{"errcode":"M_UNRECOGNIZED"}`, 2},
		{404, `{"errcode":"M_NOT_FOUND"}`, 1}, {403, `{"errcode":"M_FORBIDDEN"}`, 1}, {400, `{"errcode":"M_UNABLE_TO_GRANT_JOIN"}`, 1},
	} {
		for _, operation := range []string{"send_join", "send_leave"} {
			calls := 0
			handler := &delegate{}
			w := newWorld(t, handler)
			handler.set(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
				if calls++; calls == 1 {
					out.WriteHeader(c.status)
					_, _ = out.Write([]byte(c.body))
					return
				}
				exchange{
					method: "PUT", uri: f1 + "/" + operation + roomPath + eventPath, body: `{"m":1}`,
					answer: `[200,{"auth_chain":[{"a":1}],"state":[{"s":1}],"origin":"one.test"}]`,
				}.serve(t, one, w.client.Key.Public())(out, r)
			}))
			joined := client.JoinResult{AuthChain: raws(`{"a":1}`), State: raws(`{"s":1}`)}
			var err error
			if operation == "send_join" {
				joined, err = w.client.SendJoin(t.Context(), one, room, event, raw(`{"m":1}`), true)
			} else {
				err = w.client.SendLeave(t.Context(), one, room, event, raw(`{"m":1}`))
			}
			if calls != c.calls || (err == nil) != (c.calls == 2) || err == nil && (len(joined.AuthChain) != 1 || len(joined.State) != 1) {
				t.Errorf("%s, %+v: %d calls, %+v, %v", operation, c, calls, joined, err)
			}
		}
	}
}

func TestTransactionLimits(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	handler.set(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write([]byte(`{}`)) }))
	list := func(n int) []json.RawMessage { return raws(strings.Split(strings.Repeat(",{}", n)[1:], ",")...) }
	for _, c := range []struct {
		pdus, edus int
		ok         bool
	}{{50, 100, true}, {51, 1, false}, {1, 101, false}} {
		_, err := w.client.SendTransaction(t.Context(), one, "t", client.Transaction{PDUs: list(c.pdus), EDUs: list(c.edus)})
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := w.client.SendTransaction(t.Context(), one, "t", client.Transaction{PDUs: raws(`{`)}); err == nil {
		t.Error("a transaction of broken JSON was sent")
	}
}
