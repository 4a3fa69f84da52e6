package federation

import (
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
)

func (a *API) queryRoutes() []route {
	return []route{
		{GET, "/v1/query/profile", signed, none, a.profile},
		{GET, "/v1/query/directory", signed, none, a.directory},
		{GET, "/v1/publicRooms", signed, none, a.inTurn(a.publicRooms)},
		{POST, "/v1/publicRooms", signed, small, a.inTurn(a.searchPublicRooms)},
		{GET, "/v1/hierarchy/:roomId", signed, none, a.inTurn(a.hierarchy)},
		{GET, "/v1/openid/userinfo", public, none, a.openIDUser},
	}
}

func isUnknownVersion(err error) bool { return errors.Is(err, room.ErrUnknownVersion) }

// ownUser refuses users that other servers have to be asked about.
func (a *API) ownUser(s string) (id.UserID, error) {
	user, err := id.ParseUserID(s)
	if err != nil {
		return "", err
	}
	if user.Server() != a.Server {
		return "", fail(http.StatusBadRequest, "M_INVALID_PARAM", "the user is not one of this server")
	}
	return user, nil
}

func (a *API) profile(c *call) (any, error) {
	if err := c.needs("user_id"); err != nil {
		return nil, err
	}
	user, err := a.ownUser(c.query("user_id"))
	if err != nil {
		return nil, err
	}
	field := c.query("field")
	profile, err := a.Account.Profile(c.Request().Context(), user, "")
	if err != nil || field == "" {
		return profile, err
	}
	// A field that is not set is left out; the user is there all the same.
	answer := object{}
	if value, ok := profile[field]; ok {
		answer[field] = value
	}
	return answer, nil
}

func (a *API) directory(c *call) (any, error) {
	if err := c.needs("room_alias"); err != nil {
		return nil, err
	}
	alias, err := id.ParseRoomAlias(c.query("room_alias"))
	if err != nil {
		return nil, err
	}
	if alias.Server() != a.Server {
		return nil, fail(http.StatusNotFound, "M_NOT_FOUND", "the alias is not one of this server")
	}
	found, err := a.Directory.ResolveLocal(c.Request().Context(), alias)
	if err != nil {
		return nil, err
	}
	if err := a.allowed(c.Request().Context(), found.Room, c.Origin); err != nil {
		return nil, err
	}
	return client.Directory{RoomID: found.Room, Servers: found.Servers}, nil
}

func (a *API) publicRooms(c *call) (any, error) {
	limit, err := c.intQuery("limit", 0)
	if err != nil {
		return nil, err
	}
	return a.Directory.PublicRooms(c.Request().Context(), "", directory.Query{Limit: int(min(limit, maxLimit)), Since: c.query("since")})
}

// maxLimit keeps what is asked for within the range of every integer.
const maxLimit = 1000

func (a *API) searchPublicRooms(c *call) (any, error) {
	var body struct {
		Limit  int        `json:"limit"`
		Since  string     `json:"since"`
		Filter roomFilter `json:"filter"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	q := directory.Query{Search: body.Filter.Search, RoomTypes: body.Filter.RoomTypes, Limit: max(0, min(body.Limit, maxLimit)), Since: body.Since}
	return a.Directory.PublicRooms(c.Request().Context(), "", q)
}

// roomFilter selects public rooms, in the form of both APIs.
type roomFilter struct {
	Search    string    `json:"generic_search_term,omitempty"`
	RoomTypes []*string `json:"room_types,omitempty"`
}

func (a *API) hierarchy(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	if a.Hierarchy == nil {
		return nil, errUnrecognized
	}
	return a.Hierarchy(c.Request().Context(), c.Origin, roomID, c.query("suggested_only") == "true")
}

func (a *API) openIDUser(c *call) (any, error) {
	token := c.query("access_token")
	if token == "" {
		return nil, fail(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "access_token is needed")
	}
	user, err := a.Account.OpenIDUser(c.Request().Context(), token)
	return map[string]any{"sub": user}, err
}
