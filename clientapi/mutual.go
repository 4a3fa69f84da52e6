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

// mutualAnswer is a page of the rooms that two users are in.
type mutualAnswer struct {
	Joined []id.RoomID `json:"joined"`
	Count  int64       `json:"count"`
	Next   string      `json:"next_batch,omitempty"`
}

func (a *API) mutualRooms(c *call) (any, error) {
	return a.mutual(c, c.query("user_id"), c.query("from"), false)
}

// mutual finds the rooms that the requester shares with somebody: the page from a token on, or all that follow.
func (a *API) mutual(c *call, with, from string, all bool) (*mutualAnswer, error) {
	other, err := id.ParseUserID(with)
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
	if from != "" {
		if after, err = strconv.ParseInt(from, 10, 64); err != nil || after < 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "the token is not of this server")
		}
	}
	answer := &mutualAnswer{Joined: []id.RoomID{}}
	err = a.Store.View(c.Request().Context(), func(tx *store.Tx) error {
		if answer.Count, err = tx.Memberships.CountMutual(c.Requester.User, other); err != nil {
			return err
		}
		for {
			rooms, last, err := tx.Memberships.Mutual(c.Requester.User, other, store.RoomNID(after), maxMutual)
			if err != nil {
				return err
			}
			answer.Joined, after = append(answer.Joined, rooms...), int64(last)
			switch {
			case len(rooms) < maxMutual:
				return nil
			case !all:
				answer.Next = strconv.FormatInt(after, 10)
				return nil
			}
		}
	})
	return answer, err
}
