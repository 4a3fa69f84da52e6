package clientapi

import (
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/id"
)

const unstable = "/unstable/"

// formerName is another name, behind /unstable/, for the routes of a path that has come into the specification.
// handle is nil where the answer is the same.
type formerName struct {
	path, stable string
	handle       func(*call) (any, error)
}

// formerNames are the names from before the specification that released clients still call. Those that differ from
// today's by "unstable" alone need no line (paths).
func (a *API) formerNames() []formerName {
	return []formerName{
		{"im.nheko.summary/summary/:roomIdOrAlias", "/v1/room_summary/:roomIdOrAlias", a.roomSummaryBefore},
		{"im.nheko.summary/rooms/:roomIdOrAlias/summary", "/v1/room_summary/:roomIdOrAlias", a.roomSummaryBefore},
		{"uk.half-shot.msc2666/user/mutual_rooms", "/v1/mutual_rooms", a.mutualRoomsBefore},
		{"uk.half-shot.msc2666/user/mutual_rooms/:userId", "/v1/mutual_rooms", a.allMutualRooms},
		{"uk.half-shot.msc2666/user/shared_rooms/:userId", "/v1/mutual_rooms", a.allMutualRooms},
		{"org.matrix.msc2432/rooms/:roomId/aliases", "/v3/rooms/:roomId/aliases", nil},
		{"org.matrix.msc2946/rooms/:roomId/hierarchy", "/v1/rooms/:roomId/hierarchy", nil},
		{"org.matrix.msc3030/rooms/:roomId/timestamp_to_event", "/v1/rooms/:roomId/timestamp_to_event", nil},
		{"org.matrix.msc3856/rooms/:roomId/threads", "/v1/rooms/:roomId/threads", nil},
		{"org.matrix.msc3916/media/config", "/v1/media/config", nil},
		{"org.matrix.msc3916/media/download/:serverName/:mediaId", "/v1/media/download/:serverName/:mediaId", nil},
		{"org.matrix.msc3916/media/download/:serverName/:mediaId/:fileName", "/v1/media/download/:serverName/:mediaId/:fileName", nil},
		{"org.matrix.msc3916/media/preview_url", "/v1/media/preview_url", nil},
		{"org.matrix.msc3916/media/thumbnail/:serverName/:mediaId", "/v1/media/thumbnail/:serverName/:mediaId", nil},
		{"uk.tcpip.msc4133/profile/:userId", "/v3/profile/:userId", nil},
		{"uk.tcpip.msc4133/profile/:userId/:keyName", "/v3/profile/:userId/:keyName", nil},
	}
}

// feature is a name under "unstable_features" of /versions, and the path of a route that it stands for. Older clients look
// for these only, and not for the version of the specification that has the same.
type feature struct{ name, path string }

var features = []feature{
	{"dev.securecomm.stream", unstable + "dev.securecomm.stream"},
	{"m.lazy_load_members", "/v3/sync"},
	{"m.separate_add_and_bind", "/v3/account/3pid/add"},
	{"org.matrix.e2e_cross_signing", "/v3/keys/device_signing/upload"},
	{"org.matrix.msc2285.stable", "/v3/rooms/:roomId/receipt/:receiptType/:eventId"},
	{"org.matrix.msc2432", unstable + "org.matrix.msc2432/rooms/:roomId/aliases"},
	{"org.matrix.msc2946", unstable + "org.matrix.msc2946/rooms/:roomId/hierarchy"},
	{"org.matrix.msc3030", unstable + "org.matrix.msc3030/rooms/:roomId/timestamp_to_event"},
	{"org.matrix.msc3266", unstable + "im.nheko.summary/summary/:roomIdOrAlias"},
	{"org.matrix.msc3440.stable", "/v1/rooms/:roomId/relations/:eventId/:relType"},
	{"org.matrix.msc3715.stable", "/v1/rooms/:roomId/relations/:eventId"},
	{"org.matrix.msc3827.stable", "/v3/publicRooms"},
	{"org.matrix.msc3856", unstable + "org.matrix.msc3856/rooms/:roomId/threads"},
	{"org.matrix.msc3856.stable", "/v1/rooms/:roomId/threads"},
	{"org.matrix.msc3916", unstable + "org.matrix.msc3916/media/config"},
	{"org.matrix.msc3916.stable", "/v1/media/config"},
	{"uk.half-shot.msc2666", unstable + "uk.half-shot.msc2666/user/shared_rooms/:userId"},
	{"uk.half-shot.msc2666.mutual_rooms", unstable + "uk.half-shot.msc2666/user/mutual_rooms/:userId"},
	{"uk.half-shot.msc2666.query_mutual_rooms", unstable + "uk.half-shot.msc2666/user/mutual_rooms"},
	{"uk.half-shot.msc2666.query_mutual_rooms.stable", "/v1/mutual_rooms"},
	{"uk.tcpip.msc4133", unstable + "uk.tcpip.msc4133/profile/:userId/:keyName"},
	{"uk.tcpip.msc4133.stable", "/v3/profile/:userId/:keyName"},
}

// withFormerNames adds to routes those of their former names, and those that never got another.
func (a *API) withFormerNames(routes []route) []route {
	routes = append(routes, route{GET, unstable + "org.matrix.msc4143/rtc/transports", user, none, rtcTransports})
	for _, f := range a.formerNames() {
		for _, r := range slices.Clone(routes) {
			if r.path != f.stable {
				continue
			}
			r.path = unstable + f.path
			if f.handle != nil {
				r.handle = f.handle
			}
			routes = append(routes, r)
		}
	}
	return routes
}

// rtcTransports says that calls of many have no server of ours to go through (MSC4143): clients that are told nothing
// ask again and again.
func rtcTransports(*call) (any, error) { return json.RawMessage(`{"rtc_transports":[]}`), nil }

// summaryBefore has what had other names in MSC3266 under both.
type summaryBefore struct {
	*directory.Preview
	Version    id.RoomVersion `json:"im.nheko.summary.room_version,omitempty"`
	Encryption string         `json:"im.nheko.summary.encryption,omitempty"`
}

func (a *API) roomSummaryBefore(c *call) (any, error) {
	p, err := a.previewRoom(c)
	if err != nil {
		return nil, err
	}
	return summaryBefore{p, p.RoomVersion, p.Encryption}, nil
}

// mutualRoomsBefore is mutualRooms with the names of MSC2666.
func (a *API) mutualRoomsBefore(c *call) (any, error) {
	m, err := a.mutual(c, c.query("user_id"), c.query("batch_token"), false)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"joined": m.Joined}
	if m.Next != "" {
		answer["next_batch_token"] = m.Next
	}
	return answer, nil
}

// allMutualRooms has no pages. What it tells is bounded by the rooms that the user is in.
func (a *API) allMutualRooms(c *call) (any, error) {
	return a.mutual(c, c.path("userId"), "", true)
}
