package clientapi

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// searchRoutes are Client-Server API, module "Server Side Search".
func (a *API) searchRoutes() []route {
	return []route{
		{POST, "/v3/search", user, limitSearch, a.search},
	}
}

type searchBody struct {
	Categories struct {
		RoomEvents *roomSearch `json:"room_events"`
	} `json:"search_categories"`
}

type roomSearch struct {
	Term    string          `json:"search_term"`
	Keys    []string        `json:"keys"`
	Filter  json.RawMessage `json:"filter"`
	OrderBy string          `json:"order_by"`
	Context *struct {
		Before   *int `json:"before_limit"`
		After    *int `json:"after_limit"`
		Profiles bool `json:"include_profile"`
	} `json:"event_context"`
	IncludeState bool `json:"include_state"`
	Groupings    struct {
		GroupBy []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

func (a *API) search(c *call) (any, error) {
	var body searchBody
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	categories := map[string]any{}
	if wanted := body.Categories.RoomEvents; wanted != nil {
		q, err := wanted.query()
		if err != nil {
			return nil, err
		}
		q.From = c.query("next_batch")
		leave, err := a.searches.await(c.Request().Context(), c.Requester.User, 1)
		if err != nil {
			return nil, err
		}
		defer leave()
		found, err := a.Timeline.Search(c.Request().Context(), c.reader(), q)
		if err != nil {
			return nil, err
		}
		categories["room_events"] = found
	}
	return map[string]any{"search_categories": categories}, nil
}

// usualContext is how many events are returned on each side of a result if the client does not say.
const usualContext = 5

func (s *roomSearch) query() (timeline.Search, error) {
	q := timeline.Search{Term: s.Term, Keys: s.Keys, Recent: s.OrderBy == "recent", IncludeState: s.IncludeState}
	if s.Term == "" {
		return q, missing("search_term")
	}
	if s.OrderBy != "" && s.OrderBy != "rank" && s.OrderBy != "recent" {
		return q, fail(http.StatusBadRequest, "M_INVALID_PARAM", "order_by must be rank or recent")
	}
	for _, g := range s.Groupings.GroupBy {
		if g.Key != "room_id" && g.Key != "sender" {
			return q, fail(http.StatusBadRequest, "M_INVALID_PARAM", "group_by knows the keys room_id and sender")
		}
		q.GroupBy = append(q.GroupBy, g.Key)
	}
	if len(q.GroupBy) > 2 {
		return q, fail(http.StatusBadRequest, "M_INVALID_PARAM", "group_by names a key twice")
	}
	if c := s.Context; c != nil {
		q.Context = &timeline.SearchContext{Before: orUsual(c.Before), After: orUsual(c.After), Profiles: c.Profiles}
	}
	var err error
	q.Filter, err = filter.ParseRoomEvents(s.Filter)
	return q, err
}

func orUsual(n *int) int {
	if n == nil {
		return usualContext
	}
	return max(*n, 0)
}
