package clientapi

import (
	"strings"
	"testing"
	"time"
)

func TestAdministration(t *testing.T) {
	each(t, func(t *tester) {
		const tokens, users = "/_synapse/admin/v1/registration_tokens/new", "/_synapse/admin/v1/users/"
		token, err := t.api.Account.BootstrapToken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		root, rootToken := t.registerWith("root", token)
		alice, aliceToken := t.register("alice")

		t.want(t.call(POST, tokens, aliceToken, `{}`), 403, "M_FORBIDDEN")
		t.want(t.call(PUT, users+alice+"/admin", aliceToken, `{"admin":true}`), 403, "M_FORBIDDEN")
		for _, bad := range []string{`{"uses_allowed":0}`, `{"uses_allowed":2147483649}`, `{"expiry_time":1}`, `{"token":"easy"}`} {
			t.want(t.call(POST, tokens, rootToken, bad), 400, "M_INVALID_PARAM")
		}
		t.want(t.call(POST, tokens, rootToken, `{"uses_allowed":"many"}`), 400, "M_BAD_JSON")
		expiry := time.Now().Add(time.Hour).UnixMilli()
		a := t.want(t.call(POST, tokens, rootToken, map[string]any{"uses_allowed": 1, "expiry_time": expiry}), 200, "")
		if a.body["uses_allowed"] != 1.0 || a.body["expiry_time"] != float64(expiry) {
			t.Errorf("got %v", a.body)
		}
		once := a.body["token"].(string)
		bob, bobToken := t.registerWith("bob", once)
		t.want(t.call(POST, tokens, bobToken, `{}`), 403, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/register", "", map[string]any{
			"username": "carol", "password": "superuser", "auth": map[string]string{"type": "m.login.registration_token", "token": once},
		}), 401, "M_UNKNOWN")
		if a := t.want(t.call(POST, tokens, rootToken, `{}`), 200, ""); a.body["uses_allowed"] != nil || a.body["expiry_time"] != nil {
			t.Errorf("without limits: %v", a.body)
		}

		for body, code := range map[string]string{`{}`: "M_MISSING_PARAM", `{"admin":"yes"}`: "M_BAD_JSON"} {
			t.want(t.call(PUT, users+bob+"/admin", rootToken, body), 400, code)
		}
		t.want(t.call(PUT, users+root+"/admin", rootToken, `{"admin":false}`), 400, "M_INVALID_PARAM")
		t.want(t.call(PUT, users+"@bob:elsewhere.org/admin", rootToken, `{"admin":true}`), 400, "M_INVALID_PARAM")
		t.want(t.call(PUT, users+"@nobody:example.org/admin", rootToken, `{"admin":true}`), 404, "M_NOT_FOUND")
		t.want(t.call(PUT, users+strings.ReplaceAll(bob, ":", "%3A")+"/admin", rootToken, `{"admin":true}`), 200, "")
		_, bobToken = t.login(bob, "superuser")
		t.want(t.call(POST, tokens, bobToken, `{}`), 200, "")
		t.want(t.call(PUT, users+bob+"/admin", rootToken, `{"admin":false}`), 200, "")
		_, bobToken = t.login(bob, "superuser")
		t.want(t.call(POST, tokens, bobToken, `{}`), 403, "M_FORBIDDEN")
	})
}

// registerWith is register by a registration token.
func (t *tester) registerWith(name, token string) (userID, accessToken string) {
	t.Helper()
	a := t.want(t.call(POST, v3+"/register", "", map[string]any{
		"username": name, "password": "superuser", "auth": map[string]string{"type": "m.login.registration_token", "token": token},
	}), 200, "")
	userID, _ = a.body["user_id"].(string)
	accessToken, _ = a.body["access_token"].(string)
	return userID, accessToken
}
