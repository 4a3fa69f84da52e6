package clientapi

import (
	"net/http"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// mutualRoutes are Client-Server API, "Mutual Rooms".
func (a *API) mutualRoutes() []route {
	return []route{
		{GET, "/v1/mutual_rooms", user, none, a.mutualRooms},
	}
}

// maxMutual is how many rooms are told at once.
const maxMutual = 500

func (a *API) mutualRooms(c *call) (any, error) {
	other, err := id.ParseUserID(c.query("user_id"))
	if err == nil {
		// Historical user IDs are refused here.
		_, err = id.NewUserID(other.Localpart(), other.Server())
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "user_id must be a user ID")
	}
	if other == c.Requester.User {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "user_id must be somebody else's")
	}
	var after int64
	if from := c.query("from"); from != "" {
		if after, err = strconv.ParseInt(from, 10, 64); err != nil || after < 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "from is not a token of this server")
		}
	}
	answer := map[string]any{}
	err = a.Store.View(c.Request().Context(), func(tx *store.Tx) error {
		count, err := tx.Memberships.CountMutual(c.Requester.User, other)
		if err != nil {
			return err
		}
		rooms, last, err := tx.Memberships.Mutual(c.Requester.User, other, store.RoomNID(after), maxMutual)
		if len(rooms) == maxMutual {
			answer["next_batch"] = strconv.FormatInt(int64(last), 10)
		}
		answer["joined"], answer["count"] = append([]id.RoomID{}, rooms...), count
		return err
	})
	return answer, err
}
