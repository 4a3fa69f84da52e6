package clientapi

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/id"
)

// directoryRoutes are Client-Server API, "Room aliases" and "Published room directory".
func (a *API) directoryRoutes() []route {
	return []route{
		{GET, "/v3/directory/room/:roomAlias", public, limitLookup, a.resolveAlias},
		{PUT, "/v3/directory/room/:roomAlias", user, limitMessage, a.putAlias},
		{DELETE, "/v3/directory/room/:roomAlias", user, limitMessage, a.deleteAlias},
		{GET, "/v3/rooms/:roomId/aliases", user, none, a.roomAliases},
		{GET, "/v3/directory/list/room/:roomId", public, limitLookup, a.listing},
		{PUT, "/v3/directory/list/room/:roomId", user, limitMessage, a.setListing},
		{GET, "/v3/publicRooms", public, limitLookup, a.publicRooms},
		{POST, "/v3/publicRooms", user, limitCostly, a.searchPublicRooms},
	}
}

func (c *call) alias() (id.RoomAlias, error) { return id.ParseRoomAlias(c.path("roomAlias")) }

func (a *API) resolveAlias(c *call) (any, error) {
	alias, err := c.alias()
	if err != nil {
		return nil, err
	}
	found, err := a.Directory.Resolve(c.Request().Context(), alias)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": found.Room, "servers": found.Servers}, nil
}

func (a *API) putAlias(c *call) (any, error) {
	alias, err := c.alias()
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.RoomID == "" {
		return nil, missing("room_id")
	}
	roomID, err := id.ParseRoomID(body.RoomID)
	if err != nil {
		return nil, err
	}
	membership, _, err := a.Rooms.MembershipOf(c.Request().Context(), roomID, c.Requester.User)
	if err != nil {
		return nil, err
	}
	if membership != "join" {
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "you are not in the room")
	}
	return nil, a.Directory.Put(c.Request().Context(), alias, roomID, c.Requester.User)
}

func (a *API) deleteAlias(c *call) (any, error) {
	alias, err := c.alias()
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	roomID, err := a.Directory.Delete(ctx, alias, c.Requester.User)
	if err != nil {
		return nil, err
	}
	// The room should name it no longer; that the user may not change that is no failure.
	if err := a.Rooms.DropAlias(ctx, roomID, c.Requester.User, alias); err != nil {
		a.Log.Debug("a deleted alias stays named in its room", "room", roomID, "err", err)
	}
	return nil, nil
}

func (a *API) roomAliases(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	if err := a.mayPeek(c, roomID); err != nil {
		return nil, err
	}
	aliases, err := a.Directory.Aliases(ctx, roomID)
	return map[string]any{"aliases": aliases}, err
}

// mayPeek lets in who is in a room, and anybody where its history is readable by the world.
func (a *API) mayPeek(c *call, roomID id.RoomID) error {
	ctx := c.Request().Context()
	membership, known, err := a.Rooms.MembershipOf(ctx, roomID, c.Requester.User)
	if err != nil || membership == "join" {
		return err
	}
	if known != nil {
		summary, err := a.Rooms.Summary(ctx, roomID)
		if err != nil || summary.HistoryVisibility == "world_readable" {
			return err
		}
	}
	return fail(http.StatusForbidden, "M_FORBIDDEN", "you are not in the room")
}

func (a *API) listing(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	listed, err := a.Directory.Listed(c.Request().Context(), roomID)
	if err != nil {
		return nil, err
	}
	if listed {
		return map[string]any{"visibility": "public"}, nil
	}
	return map[string]any{"visibility": "private"}, nil
}

func (a *API) setListing(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	body := struct {
		Visibility string `json:"visibility"`
	}{"public"}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "visibility must be public or private")
	}
	return nil, a.Directory.List(c.Request().Context(), roomID, c.Requester.User, body.Visibility == "public")
}

func (a *API) publicRooms(c *call) (any, error) {
	limit, err := c.intQuery("limit", 0, 1<<20)
	if err != nil {
		return nil, err
	}
	return a.Directory.PublicRooms(c.Request().Context(), id.ServerName(c.query("server")), directory.Query{Limit: limit, Since: c.query("since")})
}

func (a *API) searchPublicRooms(c *call) (any, error) {
	var body struct {
		Limit  int    `json:"limit"`
		Since  string `json:"since"`
		Filter struct {
			Search string    `json:"generic_search_term"`
			Types  []*string `json:"room_types"`
		} `json:"filter"`
		AllNetworks bool            `json:"include_all_networks"`
		Network     json.RawMessage `json:"third_party_instance_id"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if len(body.Network) > 0 && string(body.Network) != "null" {
		// No bridged network is known here.
		return &directory.Page{Chunk: []directory.Entry{}}, nil
	}
	q := directory.Query{Search: body.Filter.Search, RoomTypes: body.Filter.Types, Limit: body.Limit, Since: body.Since}
	return a.Directory.PublicRooms(c.Request().Context(), id.ServerName(c.query("server")), q)
}
