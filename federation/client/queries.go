package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Profile fetches a user's profile, or one field of it; an empty field asks for all.
func (c *Client) Profile(ctx context.Context, to id.ServerName, user id.UserID, field string) (map[string]json.RawMessage, error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	var profile map[string]json.RawMessage
	err := c.do(ctx, to, get(limitSmall, federation1+"/query/profile", query), &profile)
	return profile, err
}

// Directory is a room that an alias stands for, and servers that are in it.
type Directory struct {
	RoomID  id.RoomID       `json:"room_id"`
	Servers []id.ServerName `json:"servers"`
}

// Directory looks an alias of the other server up. Entries that are no server names are left out.
func (c *Client) Directory(ctx context.Context, to id.ServerName, alias id.RoomAlias) (Directory, error) {
	const path = federation1 + "/query/directory"
	var answer Directory
	if err := c.do(ctx, to, get(limitSmall, path, url.Values{"room_alias": {string(alias)}}), &answer); err != nil {
		return Directory{}, err
	}
	if _, err := id.ParseRoomID(string(answer.RoomID)); err != nil {
		return Directory{}, malformed(to, path, err)
	}
	answer.Servers = only(answer.Servers, id.ParseServerName)
	return answer, nil
}

// PublicRoomsQuery selects from a server's public rooms; the zero value asks for the first ones.
type PublicRoomsQuery struct {
	Limit int    `json:"limit,omitempty"` // zero leaves it to the other server
	Since string `json:"since,omitempty"`
	// Filter is as in the Client-Server API; nil for none.
	Filter               json.RawMessage `json:"filter,omitempty"`
	IncludeAllNetworks   bool            `json:"include_all_networks,omitempty"`
	ThirdPartyInstanceID string          `json:"third_party_instance_id,omitempty"`
}

// PublicRooms is a page of a server's public rooms.
type PublicRooms struct {
	Chunk     []json.RawMessage
	NextBatch string
	PrevBatch string
	// Total is an estimate; nil if there is none.
	Total *int64
}

// PublicRooms lists a server's public rooms: by GET, or by POST if there is a filter.
func (c *Client) PublicRooms(ctx context.Context, to id.ServerName, q PublicRoomsQuery) (PublicRooms, error) {
	const path = federation1 + "/publicRooms"
	var answer PublicRooms
	members := map[string]member{
		"chunk": each(&answer.Chunk, maxRooms, maxEntry), "next_batch": one(&answer.NextBatch), "prev_batch": one(&answer.PrevBatch),
		"total_room_count_estimate": one(&answer.Total),
	}
	if q.Filter != nil {
		request, err := send(http.MethodPost, limitLists, path, q)
		if err != nil {
			return PublicRooms{}, err
		}
		err = c.doMembers(ctx, to, request, members)
		return answer, err
	}
	query := url.Values{}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Since != "" {
		query.Set("since", q.Since)
	}
	if q.IncludeAllNetworks {
		query.Set("include_all_networks", "true")
	}
	if q.ThirdPartyInstanceID != "" {
		query.Set("third_party_instance_id", q.ThirdPartyInstanceID)
	}
	err := c.doMembers(ctx, to, get(limitLists, path, query), members)
	return answer, err
}

// maxRooms is how many rooms one answer may list: some servers give all of them at once.
const maxRooms = 50000

// Hierarchy is a space and its children; room and children are summaries as in the Client-Server API.
type Hierarchy struct {
	Room                 json.RawMessage
	Children             []json.RawMessage
	InaccessibleChildren []id.RoomID
}

// Hierarchy fetches one level of a space.
func (c *Client) Hierarchy(ctx context.Context, to id.ServerName, room id.RoomID, suggestedOnly bool) (Hierarchy, error) {
	query := url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}}
	var answer Hierarchy
	err := c.doMembers(ctx, to, get(limitLists, join(federation1+"/hierarchy", string(room)), query), map[string]member{
		"room": one(&answer.Room), "children": each(&answer.Children, maxRooms, maxEntry),
		"inaccessible_children": each(&answer.InaccessibleChildren, maxRooms, maxName),
	})
	if err != nil {
		return Hierarchy{}, err
	}
	answer.InaccessibleChildren = only(answer.InaccessibleChildren, id.ParseRoomID)
	return answer, nil
}

// Version is the name and version of a server's software, as it says.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Version asks a server for its software.
func (c *Client) Version(ctx context.Context, to id.ServerName) (Version, error) {
	request := get(limitSmall, federation1+"/version", nil)
	request.unsigned = true
	var answer struct {
		Server Version `json:"server"`
	}
	err := c.do(ctx, to, request, &answer)
	return answer.Server, err
}

// OpenIDUserInfo asks a server whose OpenID token this is; the answer must be a user of that server.
func (c *Client) OpenIDUserInfo(ctx context.Context, to id.ServerName, token string) (id.UserID, error) {
	const path = federation1 + "/openid/userinfo"
	request := get(limitSmall, path, url.Values{"access_token": {token}})
	request.unsigned = true
	var answer struct {
		Sub string `json:"sub"`
	}
	if err := c.do(ctx, to, request, &answer); err != nil {
		return "", err
	}
	user, err := id.ParseUserID(answer.Sub)
	if err != nil {
		return "", malformed(to, path, err)
	}
	if user.Server() != to {
		return "", malformed(to, path, errOther)
	}
	return user, nil
}
