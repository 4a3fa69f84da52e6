package clientapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/stream"
)

func (a *API) pushRoutes() []route {
	const rule = "/v3/pushrules/global/:kind/:ruleId"
	return []route{
		{GET, "/v3/pushrules", user, none, a.pushRules},
		{GET, "/v3/pushrules/", user, none, a.pushRules},
		{GET, "/v3/pushrules/global", user, none, a.globalPushRules},
		{GET, "/v3/pushrules/global/", user, none, a.globalPushRules},
		{GET, rule, user, none, a.pushRule},
		{PUT, rule, user, limitMessage, a.putPushRule},
		{DELETE, rule, user, limitMessage, a.deletePushRule},
		{GET, rule + "/enabled", user, none, a.pushRuleEnabled},
		{PUT, rule + "/enabled", user, limitMessage, a.setPushRuleEnabled},
		{GET, rule + "/actions", user, none, a.pushRuleActions},
		{PUT, rule + "/actions", user, limitMessage, a.setPushRuleActions},
		{GET, "/v3/pushers", user, none, a.pushers},
		{POST, "/v3/pushers/set", user, limitMessage, a.setPusher},
		{GET, "/v3/notifications", user, limitSearch, a.notifications},
	}
}

func (a *API) pushRules(c *call) (any, error) {
	set, err := a.Push.Ruleset(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"global": set}, nil
}

func (a *API) globalPushRules(c *call) (any, error) {
	set, err := a.Push.Ruleset(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	return set, nil
}

// getPushRule is the rule named in the path.
func (a *API) getPushRule(c *call) (pushrule.Rule, error) {
	set, err := a.Push.Ruleset(c.Request().Context(), c.Requester.User)
	if err != nil {
		return pushrule.Rule{}, err
	}
	return set.Get(c.path("kind"), c.path("ruleId"))
}

func (a *API) changePushRules(c *call, edit func(set *pushrule.Ruleset, kind, ruleID string) error) error {
	kind, ruleID := c.path("kind"), c.path("ruleId")
	return a.Push.Change(c.Request().Context(), c.Requester.User, func(set *pushrule.Ruleset) error { return edit(set, kind, ruleID) })
}

func (a *API) pushRule(c *call) (any, error) {
	rule, err := a.getPushRule(c)
	if err != nil {
		return nil, err
	}
	return rule, nil
}

func (a *API) putPushRule(c *call) (any, error) {
	var body struct {
		Conditions json.RawMessage `json:"conditions"`
		Pattern    string          `json:"pattern"`
		Actions    json.RawMessage `json:"actions"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, missing("actions")
	}
	before, after := c.query("before"), c.query("after")
	return nil, a.changePushRules(c, func(set *pushrule.Ruleset, kind, ruleID string) error {
		rule := pushrule.Rule{ID: ruleID, Conditions: body.Conditions, Pattern: body.Pattern, Actions: body.Actions}
		return set.Put(kind, rule, before, after)
	})
}

func (a *API) deletePushRule(c *call) (any, error) {
	return nil, a.changePushRules(c, func(set *pushrule.Ruleset, kind, ruleID string) error { return set.Delete(kind, ruleID) })
}

func (a *API) pushRuleEnabled(c *call) (any, error) {
	rule, err := a.getPushRule(c)
	if err != nil {
		return nil, err
	}
	return map[string]any{"enabled": rule.Enabled}, nil
}

func (a *API) setPushRuleEnabled(c *call) (any, error) {
	var body struct {
		Enabled *bool `json:"enabled"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Enabled == nil {
		return nil, missing("enabled")
	}
	return nil, a.changePushRules(c, func(set *pushrule.Ruleset, kind, ruleID string) error {
		return set.SetEnabled(kind, ruleID, *body.Enabled)
	})
}

func (a *API) pushRuleActions(c *call) (any, error) {
	rule, err := a.getPushRule(c)
	if err != nil {
		return nil, err
	}
	return map[string]any{"actions": rule.Actions}, nil
}

func (a *API) setPushRuleActions(c *call) (any, error) {
	var body struct {
		Actions json.RawMessage `json:"actions"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, missing("actions")
	}
	return nil, a.changePushRules(c, func(set *pushrule.Ruleset, kind, ruleID string) error {
		return set.SetActions(kind, ruleID, body.Actions)
	})
}

func (a *API) pushers(c *call) (any, error) {
	list, err := a.Push.Pushers(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"pushers": list}, nil
}

func (a *API) setPusher(c *call) (any, error) {
	var body struct {
		Kind              json.RawMessage `json:"kind"` // null deletes the pusher
		AppID             *string         `json:"app_id"`
		PushKey           *string         `json:"pushkey"`
		AppDisplayName    *string         `json:"app_display_name"`
		DeviceDisplayName *string         `json:"device_display_name"`
		ProfileTag        string          `json:"profile_tag"`
		Lang              *string         `json:"lang"`
		Data              json.RawMessage `json:"data"`
		Append            bool            `json:"append"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.AppID == nil || body.PushKey == nil || body.Kind == nil {
		return nil, missing("app_id, pushkey or kind")
	}
	var kind *string
	if err := json.Unmarshal(body.Kind, &kind); err != nil {
		return nil, fail(http.StatusBadRequest, "M_BAD_JSON", "kind must be a string or null")
	}
	ctx := c.Request().Context()
	if kind == nil {
		return nil, a.Push.DeletePusher(ctx, c.Requester.User, *body.AppID, *body.PushKey)
	}
	if body.AppDisplayName == nil || body.DeviceDisplayName == nil || body.Lang == nil || body.Data == nil {
		return nil, missing("app_display_name, device_display_name, lang or data")
	}
	return nil, a.Push.SetPusher(ctx, c.Requester.User, c.Requester.Device, push.Pusher{
		Kind: *kind, AppID: *body.AppID, PushKey: *body.PushKey, AppDisplayName: *body.AppDisplayName,
		DeviceDisplayName: *body.DeviceDisplayName, ProfileTag: body.ProfileTag, Lang: *body.Lang, Data: body.Data,
	}, body.Append)
}

func (a *API) notifications(c *call) (any, error) {
	limit, err := c.intQuery("limit", 20, 100)
	if err != nil {
		return nil, err
	}
	only := c.query("only")
	if only != "" && only != "highlight" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "only must be highlight")
	}
	var before int64
	if from := c.query("from"); from != "" {
		if before, err = strconv.ParseInt(from, 10, 64); err != nil || before <= 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "from is not a token of this endpoint")
		}
	}
	leave, err := a.searches.await(c.Request().Context(), c.Requester.User, 1)
	if err != nil {
		return nil, err
	}
	defer leave()
	list, next, err := a.Push.Notifications(c.Request().Context(), c.Requester.User, stream.Position(before), max(limit, 1), only == "highlight")
	if err != nil {
		return nil, err
	}
	found := make([]map[string]any, len(list))
	for i, n := range list {
		found[i] = map[string]any{
			"actions": n.Actions, "event": json.RawMessage(n.Event.ClientJSON(nil)), "read": n.Read,
			"room_id": n.Room, "ts": n.Event.OriginServerTS,
		}
	}
	answer := map[string]any{"notifications": found}
	if next > 0 {
		answer["next_token"] = strconv.FormatInt(int64(next), 10)
	}
	return answer, nil
}
