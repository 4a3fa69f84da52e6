package clientapi

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

func eachWithPush(t *testing.T, test func(*tester)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		test(newTester(t, db, func(a *API) { a.Push = push.New(db, a.Log) }))
	})
}

func TestPushRules(t *testing.T) {
	eachWithPush(t, func(t *tester) {
		alice, token := t.register("alice")
		const rules = "/_matrix/client/v3/pushrules/"
		data := v3 + "/user/" + url.PathEscape(alice) + "/account_data/m.push_rules"
		if got := fmt.Sprint(t.want(t.call(GET, data, token, nil), 200, "").body); !strings.Contains(got, ".m.rule.master") {
			t.Errorf("before the first change, the account data is %s", got)
		}
		put := func(path string, body any) answer { t.Helper(); return t.call(PUT, rules+path, token, body) }
		get := func(path string) answer { t.Helper(); return t.call(GET, rules+path, token, nil) }
		actions := map[string]any{"actions": []string{"dont_notify"}}

		t.want(put("global/sender/@alice:example.org", actions), 200, "")
		t.want(put("global/room/%21a%3Ab", actions), 200, "")
		t.want(put("global/room/!c:d?after=!a:b", actions), 200, "")
		t.want(put("global/content/word", map[string]any{"actions": []string{"notify"}, "pattern": "x*"}), 200, "")
		all := fmt.Sprint(get("").body)
		if got := fmt.Sprint(t.call(GET, data, token, nil).body); got != all {
			t.Errorf("the account data is %s, not %s", got, all)
		}
		if !strings.Contains(all, "dont_notify") || strings.Index(all, "rule_id:!a:b") > strings.Index(all, "rule_id:!c:d") {
			t.Errorf("got %s", all)
		}
		if got := fmt.Sprint(get("global/").body); !strings.HasPrefix(got, "map[content:") {
			t.Errorf("got %s", got)
		}
		if got := get("global/content/word").body; got["pattern"] != "x*" || got["enabled"] != true || got["default"] != false || got["conditions"] != nil {
			t.Errorf("got %v", got)
		}
		t.want(put("global/content/word/enabled", map[string]bool{"enabled": false}), 200, "")
		t.want(put("global/content/word/actions", map[string]any{"actions": []string{}}), 200, "")
		if got := fmt.Sprint(get("global/content/word/enabled").body, get("global/content/word/actions").body); got != "map[enabled:false] map[actions:[]]" {
			t.Errorf("got %s", got)
		}
		t.want(t.call(DELETE, rules+"global/content/word", token, nil), 200, "")
		for path, want := range map[string]struct {
			code    int
			errcode string
		}{
			"global/content/word":         {404, "M_NOT_FOUND"},
			"global/content/word/enabled": {404, "M_NOT_FOUND"},
			"global/postcontent/x":        {404, "M_NOT_FOUND"},
			"device/content/word":         {404, "M_UNRECOGNIZED"},
		} {
			t.want(get(path), want.code, want.errcode)
		}
		t.want(put("global/content/word/enabled", map[string]bool{"enabled": true}), 404, "M_NOT_FOUND")
		t.want(put("global/content/word/enabled", map[string]any{}), 400, "M_MISSING_PARAM")
		t.want(put("global/room/!x:y", map[string]any{}), 400, "M_MISSING_PARAM")
		t.want(put("global/room/.x", actions), 400, "M_INVALID_PARAM")
		t.want(put("global/room/a%2Fb", actions), 400, "M_INVALID_PARAM")
		t.want(put("global/room/!x:y?before=!nobody:b", actions), 400, "M_UNKNOWN")
		t.want(t.call(DELETE, rules+"global/override/.m.rule.master", token, nil), 400, "M_INVALID_PARAM")
	})
}

func TestPushersAndNotifications(t *testing.T) {
	eachWithPush(t, func(t *tester) {
		_, token := t.register("alice")
		const set = "/_matrix/client/v3/pushers/set"
		pusher := map[string]any{
			"kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
			"data": map[string]string{"url": "https://push.test/_matrix/push/v1/notify"},
		}
		list := func() string {
			return fmt.Sprint(t.call(GET, "/_matrix/client/v3/pushers", token, nil).body["pushers"])
		}
		t.want(t.call(POST, set, token, pusher), 200, "")
		if got := list(); !strings.Contains(got, "app_display_name:App") {
			t.Errorf("got %s", got)
		}
		t.want(t.call(POST, set, token, map[string]any{"kind": nil, "app_id": "app", "pushkey": "key"}), 200, "")
		if got := list(); got != "[]" {
			t.Errorf("got %s", got)
		}
		t.want(t.call(POST, set, token, map[string]any{"kind": "http", "app_id": "app"}), 400, "M_MISSING_PARAM")
		t.want(t.call(POST, set, token, map[string]any{"kind": "http", "app_id": "app", "pushkey": "key"}), 400, "M_MISSING_PARAM")
		t.want(t.call(POST, set, token, map[string]any{"app_id": "app", "pushkey": "key"}), 400, "M_MISSING_PARAM")
		t.want(t.call(POST, set, token, map[string]any{"kind": 1, "app_id": "app", "pushkey": "key"}), 400, "M_BAD_JSON")
		pusher["kind"] = "pigeon"
		t.want(t.call(POST, set, token, pusher), 400, "M_INVALID_PARAM")

		const notifications = "/_matrix/client/v3/notifications"
		if got := fmt.Sprint(t.want(t.call(GET, notifications, token, nil), 200, "").body); got != "map[notifications:[]]" {
			t.Errorf("got %s", got)
		}
		t.want(t.call(GET, notifications+"?from=x", token, nil), 400, "M_INVALID_PARAM")
	})
}
