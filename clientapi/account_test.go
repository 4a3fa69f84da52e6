package clientapi

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"net/url"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const v3 = "/_matrix/client/v3"

func passwordAuth(userID, password string) map[string]any {
	return map[string]any{"type": "m.login.password", "password": password, "identifier": map[string]string{"type": "m.id.user", "user": userID}}
}

func (t *tester) login(userID, password string) (deviceID, token string) {
	t.Helper()
	a := t.want(t.call(POST, v3+"/login", "", passwordAuth(userID, password)), 200, "")
	return a.body["device_id"].(string), a.body["access_token"].(string)
}

func TestRegistrationFlow(t *testing.T) {
	each(t, func(t *tester) {
		a := t.want(t.call(POST, v3+"/register", "", `{}`), 401, "")
		stages := a.body["flows"].([]any)[0].(map[string]any)["stages"].([]any)
		if stages[0] != "m.login.dummy" || a.body["session"] == "" || a.body["params"] == nil {
			t.Errorf("got %v", a.body)
		}
		body := map[string]any{
			"username": "user-UPPER", "password": "übers3kr1t", "device_id": "xyzzy", "initial_device_display_name": "name",
			"auth": map[string]any{"type": "m.login.dummy", "session": a.body["session"]},
		}
		a = t.want(t.call(POST, v3+"/register", "", body), 200, "")
		if a.body["user_id"] != "@user-upper:example.org" || a.body["device_id"] != "xyzzy" || a.body["access_token"] == "" {
			t.Errorf("got %v", a.body)
		}
		body["auth"] = map[string]any{"type": "m.login.dummy"}
		t.want(t.call(POST, v3+"/register", "", body), 400, "M_USER_IN_USE")
		for _, bad := range []string{"!", `"`, ":", "?", "\\", "@", "[", "é", "\n", "'"} {
			body["username"] = "user-" + bad
			t.want(t.call(POST, v3+"/register", "", body), 400, "M_INVALID_USERNAME")
		}
		t.want(t.call(POST, v3+"/register?kind=guest", "", `{}`), 403, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/register", "", `{"username":"x","auth":{"type":"m.login.dummy"}}`), 400, "M_MISSING_PARAM")
		t.want(t.call(GET, v3+"/register/available?username=free", "", nil), 200, "")
		t.want(t.call(GET, v3+"/register/available?username=user-upper", "", nil), 400, "M_USER_IN_USE")
		t.want(t.call(GET, v3+"/register/available?username=a,b", "", nil), 400, "M_INVALID_USERNAME")
		t.want(t.call(GET, v3+"/register/available", "", nil), 400, "M_MISSING_PARAM")
	})
}

// A client whose answer was lost asks again: it is the same account. Parameters are remembered in the session.
func TestRegistrationIsOneForASession(t *testing.T) {
	each(t, func(t *tester) {
		for _, given := range []map[string]any{{"username": "alice", "password": "superuser"}, {"password": "superuser"}} {
			session := t.want(t.call(POST, v3+"/register", "", given), 401, "").body["session"]
			auth := map[string]any{"auth": map[string]any{"type": "m.login.dummy", "session": session}}
			first := t.want(t.call(POST, v3+"/register", "", auth), 200, "")
			again := t.want(t.call(POST, v3+"/register", "", auth), 200, "")
			if first.body["user_id"] != again.body["user_id"] || given["username"] != nil && first.body["user_id"] != "@alice:example.org" {
				t.Errorf("%v: registered as %v, then as %v", given, first.body["user_id"], again.body["user_id"])
			}
			t.want(t.call(GET, v3+"/account/whoami", again.body["access_token"].(string), nil), 200, "")
			auth["username"], auth["password"] = "mallory", "superuser"
			t.want(t.call(POST, v3+"/register", "", auth), 403, "M_FORBIDDEN")
			auth["username"], auth["password"] = given["username"], "another one"
			if auth["username"] == nil {
				delete(auth, "username")
			}
			t.want(t.call(POST, v3+"/register", "", auth), 403, "M_FORBIDDEN")
		}
	})
}

func TestSharedSecretRegistration(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	const path = "/_synapse/admin/v1/register"
	nonce := test.want(test.call(GET, path, "", nil), 200, "").body["nonce"].(string)
	register := func(name, role string, admin bool) answer {
		mac := hmac.New(sha1.New, []byte("hush"))
		mac.Write([]byte(nonce + "\x00" + name + "\x00sUp3rs3kr1t\x00" + role))
		return test.call(POST, path, "", map[string]any{
			"nonce": nonce, "username": name, "password": "sUp3rs3kr1t", "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil)),
		})
	}
	test.want(register("us,er", "notadmin", false), 400, "M_INVALID_USERNAME")
	test.want(register("root", "notadmin", true), 403, "M_FORBIDDEN")
	a := test.want(register("Root", "admin", true), 200, "")
	if a.body["user_id"] != "@root:example.org" {
		t.Errorf("got %v", a.body)
	}
	alice, _ := test.register("alice")
	test.want(test.call(GET, v3+"/admin/whois/"+alice, a.body["access_token"].(string), nil), 200, "")
}

func TestLoginFlow(t *testing.T) {
	each(t, func(t *tester) {
		alice, token := t.register("alice")
		t.want(t.call(GET, v3+"/login", "", nil), 200, "")
		for _, name := range []string{"alice", alice, "@ALICE:example.org"} {
			device, other := t.login(name, "superuser")
			a := t.want(t.call(GET, v3+"/account/whoami", other, nil), 200, "")
			if a.body["user_id"] != alice || a.body["device_id"] != device {
				t.Errorf("%s logged in as %v", name, a.body)
			}
		}
		t.want(t.call(POST, v3+"/login", "", map[string]any{"type": "m.login.password", "user": "alice", "password": "superuser"}), 200, "")
		t.want(t.call(POST, v3+"/login", "", passwordAuth(alice, "wrong")), 403, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/login", "", passwordAuth("i-dont-exist", "superuser")), 403, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/login", "", `{"type":"m.login.sso"}`), 400, "M_UNKNOWN")
		for _, lacking := range []string{
			`"password":"superuser"`, `"identifier":{"type":"m.id.user","user":"alice"}`, `"identifier":{"user":"alice"},"password":"superuser"`, `"identifier":{"type":"m.id.user"},"password":"superuser"`,
		} {
			t.want(t.call(POST, v3+"/login", "", `{"type":"m.login.password",`+lacking+`}`), 400, "M_MISSING_PARAM")
		}

		getToken := "/_matrix/client/v1/login/get_token"
		t.want(t.call(POST, getToken, token, `{}`), 401, "")
		a := t.want(t.call(POST, getToken, token, map[string]any{"auth": passwordAuth(alice, "superuser")}), 200, "")
		with := map[string]any{"type": "m.login.token", "token": a.body["login_token"], "refresh_token": true}
		a = t.want(t.call(POST, v3+"/login", "", with), 200, "")
		t.want(t.call(POST, v3+"/login", "", with), 403, "M_FORBIDDEN")
		refreshed := t.want(t.call(POST, v3+"/refresh", "", map[string]any{"refresh_token": a.body["refresh_token"]}), 200, "")
		t.want(t.call(POST, v3+"/logout", refreshed.body["access_token"].(string), nil), 200, "")
		t.want(t.call(POST, v3+"/refresh", "", map[string]any{"refresh_token": refreshed.body["refresh_token"]}), 401, "M_UNKNOWN_TOKEN")
		t.want(t.call(POST, v3+"/logout/all", token, nil), 200, "")
		t.want(t.call(GET, v3+"/account/whoami", token, nil), 401, "M_UNKNOWN_TOKEN")
	})
}

func TestDeviceFlow(t *testing.T) {
	each(t, func(t *tester) {
		alice, token := t.register("alice")
		bob, _ := t.register("bob")
		device, other := t.login(alice, "superuser")
		path := v3 + "/devices/" + url.PathEscape(device)
		t.want(t.call(GET, v3+"/devices/unknown", token, nil), 404, "M_NOT_FOUND")
		t.want(t.call(PUT, v3+"/devices/unknown", token, `{"display_name":"x"}`), 404, "M_NOT_FOUND")
		t.want(t.call(PUT, path, token, `{"display_name":"new name"}`), 200, "")
		if a := t.call(GET, path, token, nil); a.body["display_name"] != "new name" || a.body["device_id"] != device {
			t.Errorf("got %v", a.body)
		}
		if a := t.call(GET, v3+"/devices", token, nil); len(a.body["devices"].([]any)) != 2 {
			t.Errorf("got %v", a.body)
		}
		a := t.want(t.call(DELETE, path, token, nil), 401, "")
		for _, member := range []string{"session", "flows", "params"} {
			if a.body[member] == nil {
				t.Errorf("the challenge has no %s", member)
			}
		}
		a = t.want(t.call(DELETE, path, token, map[string]any{"auth": passwordAuth(alice, "wrong")}), 401, "M_FORBIDDEN")
		if a.body["flows"] == nil || a.body["error"] == nil {
			t.Errorf("got %v", a.body)
		}
		// Whether it is another user's password is not told.
		for _, password := range []string{"superuser", "wrong"} {
			t.want(t.call(DELETE, path, token, map[string]any{"auth": passwordAuth(bob, password)}), 403, "M_FORBIDDEN")
		}
		t.want(t.call(GET, path, token, nil), 200, "")
		t.want(t.call(DELETE, path, token, map[string]any{"auth": passwordAuth(alice, "superuser")}), 200, "")
		t.want(t.call(GET, path, token, nil), 404, "M_NOT_FOUND")
		t.want(t.call(GET, v3+"/account/whoami", other, nil), 401, "M_UNKNOWN_TOKEN")

		t.want(t.call(POST, v3+"/delete_devices", token, `{}`), 400, "M_MISSING_PARAM")
		session := func(a answer) map[string]any {
			auth := passwordAuth(alice, "superuser")
			auth["session"] = a.body["session"]
			return auth
		}
		one, _ := t.login(alice, "superuser")
		two, _ := t.login(alice, "superuser")
		auth := session(t.call(DELETE, v3+"/devices/"+url.PathEscape(one), token, nil))
		t.want(t.call(DELETE, v3+"/devices/"+url.PathEscape(two), token, map[string]any{"auth": auth}), 401, "M_UNKNOWN")
		auth = session(t.call(POST, v3+"/delete_devices", token, map[string]any{"devices": []string{one}}))
		t.want(t.call(POST, v3+"/delete_devices", token, map[string]any{"devices": []string{two}, "auth": auth}), 403, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/delete_devices", token, map[string]any{"auth": auth}), 200, "")
		t.want(t.call(GET, v3+"/devices/"+url.PathEscape(one), token, nil), 404, "M_NOT_FOUND")
		t.want(t.call(GET, v3+"/devices/"+url.PathEscape(two), token, nil), 200, "")
		device, other = t.login(alice, "superuser")
		t.want(t.call(POST, v3+"/delete_devices", token, map[string]any{"devices": []string{device, "unknown"}, "auth": passwordAuth(alice, "superuser")}), 200, "")
		t.want(t.call(GET, v3+"/account/whoami", other, nil), 401, "M_UNKNOWN_TOKEN")
	})
}

func TestAccountFlow(t *testing.T) {
	each(t, func(t *tester) {
		alice, token := t.register("alice")
		bob, bobToken := t.register("bob")
		_, other := t.login(alice, "superuser")
		auth := map[string]any{"auth": passwordAuth(alice, "superuser"), "new_password": "my_new_password"}
		t.want(t.call(POST, v3+"/account/password", token, `{}`), 400, "M_MISSING_PARAM")
		t.want(t.call(POST, v3+"/account/password", token, `{"new_password":"my_new_password"}`), 401, "")
		t.want(t.call(POST, v3+"/account/password", token, auth), 200, "")
		t.want(t.call(GET, v3+"/account/whoami", token, nil), 200, "")
		t.want(t.call(GET, v3+"/account/whoami", other, nil), 401, "M_UNKNOWN_TOKEN")
		_, other = t.login(alice, "my_new_password")
		t.want(t.call(POST, v3+"/account/password", token, map[string]any{
			"auth": passwordAuth(alice, "my_new_password"), "new_password": "superuser", "logout_devices": false,
		}), 200, "")
		t.want(t.call(GET, v3+"/account/whoami", other, nil), 200, "")

		t.want(t.call(GET, v3+"/admin/whois/"+alice, token, nil), 200, "")
		t.want(t.call(GET, v3+"/admin/whois/"+bob, token, nil), 403, "M_FORBIDDEN")
		t.want(t.call(GET, v3+"/account/3pid", token, nil), 200, "")
		t.want(t.call(POST, v3+"/account/3pid/add", token, `{}`), 403, "M_THREEPID_DENIED")
		t.want(t.call(POST, v3+"/user/"+alice+"/openid/request_token", token, `{}`), 200, "")
		t.want(t.call(POST, v3+"/user/"+bob+"/openid/request_token", token, `{}`), 403, "M_FORBIDDEN")

		t.want(t.call(POST, v3+"/account/deactivate", bobToken, map[string]any{"auth": passwordAuth(bob, "wrong_password")}), 401, "M_FORBIDDEN")
		t.want(t.call(POST, v3+"/account/deactivate", bobToken, map[string]any{"auth": passwordAuth(bob, "superuser")}), 200, "")
		t.want(t.call(POST, v3+"/login", "", passwordAuth(bob, "superuser")), 403, "M_USER_DEACTIVATED")
	})
}

func TestProfileFlow(t *testing.T) {
	each(t, func(t *tester) {
		alice, token := t.register("alice/slash")
		bob, _ := t.register("bob")
		path := v3 + "/profile/" + url.PathEscape(alice)
		t.want(t.call(PUT, path+"/displayname", token, `{"displayname":"Alice"}`), 200, "")
		t.want(t.call(PUT, path+"/avatar_url", token, `{"avatar_url":"mxc://example.com/SEsf"}`), 200, "")
		if a := t.want(t.call(GET, path+"/displayname", "", nil), 200, ""); a.body["displayname"] != "Alice" || len(a.body) != 1 {
			t.Errorf("got %v", a.body)
		}
		if a := t.want(t.call(GET, path, "", nil), 200, ""); a.body["avatar_url"] != "mxc://example.com/SEsf" || len(a.body) != 2 {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(PUT, path+"/displayname", token, `{"name":"Alice"}`), 400, "M_MISSING_PARAM")
		t.want(t.call(PUT, v3+"/profile/"+bob+"/displayname", token, `{"displayname":"x"}`), 403, "M_FORBIDDEN")
		t.want(t.call(DELETE, path+"/displayname", token, nil), 200, "")
		t.want(t.call(GET, path+"/displayname", "", nil), 404, "M_NOT_FOUND")
		t.want(t.call(GET, v3+"/profile/@nobody:example.org", "", nil), 404, "M_NOT_FOUND")
		t.want(t.call(GET, v3+"/profile/nobody", "", nil), 400, "M_INVALID_PARAM")
		a := t.want(t.call(POST, v3+"/user_directory/search", token, `{"search_term":"bob"}`), 200, "")
		if len(a.body["results"].([]any)) != 0 || a.body["limited"] != false {
			t.Errorf("a user in no common room was found: %v", a.body)
		}
	})
}

func TestAccountDataFlow(t *testing.T) {
	each(t, func(t *tester) {
		alice, token := t.register("alice")
		_, bobToken := t.register("bob")
		own := v3 + "/user/" + url.PathEscape(alice)
		room := own + "/rooms/" + url.PathEscape("!r:example.org")
		for _, path := range []string{own + "/account_data/test.key", room + "/account_data/test.key"} {
			t.want(t.call(GET, path, token, nil), 404, "M_NOT_FOUND")
			t.want(t.call(PUT, path, token, `{"value":"first"}`), 200, "")
			t.want(t.call(PUT, path, token, `{"value":"second"}`), 200, "")
			if a := t.want(t.call(GET, path, token, nil), 200, ""); a.body["value"] != "second" {
				t.Errorf("got %v", a.body)
			}
			t.want(t.call(PUT, path, bobToken, `{}`), 403, "M_FORBIDDEN")
			t.want(t.call(PUT, path, token, `[]`), 400, "M_BAD_JSON")
			t.want(t.call(PUT, path, token, ``), 400, "M_NOT_JSON")
		}
		t.want(t.call(PUT, room+"/account_data/m.fully_read", token, `{}`), 405, "M_BAD_JSON")
		t.want(t.call(PUT, room+"/tags/u.work", token, `{"order":0.5}`), 200, "")
		if a := t.want(t.call(GET, room+"/tags", token, nil), 200, ""); len(a.body["tags"].(map[string]any)) != 1 {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(DELETE, room+"/tags/u.work", token, nil), 200, "")
		if a := t.want(t.call(GET, room+"/tags", token, nil), 200, ""); len(a.body["tags"].(map[string]any)) != 0 {
			t.Errorf("got %v", a.body)
		}
		a := t.want(t.call(POST, own+"/filter", token, `{"room":{"timeline":{"limit":10}}}`), 200, "")
		got := t.want(t.call(GET, own+"/filter/"+a.body["filter_id"].(string), token, nil), 200, "")
		if got.body["room"] == nil {
			t.Errorf("got %v", got.body)
		}
		t.want(t.call(POST, own+"/filter", token, `{"presence":"not_an_object"}`), 400, "M_BAD_JSON")
		t.want(t.call(GET, own+"/filter/999", token, nil), 404, "M_NOT_FOUND")
	})
}

func TestDiscovery(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), func(a *API) { a.Rooms = &room.Engine{DefaultVersion: "11"} })
	_, token := test.register("alice")
	if a := test.want(test.call(GET, "/_matrix/client/versions", "", nil), 200, ""); len(a.body["versions"].([]any)) != 22 {
		t.Errorf("got %v", a.body)
	}
	a := test.want(test.call(GET, v3+"/capabilities", token, nil), 200, "")
	versions := a.body["capabilities"].(map[string]any)["m.room_versions"].(map[string]any)
	if versions["default"] != "11" || versions["available"].(map[string]any)["1"] != "stable" {
		t.Errorf("got %v", versions)
	}
	test.want(test.call(GET, v3+"/capabilities", "", nil), 401, "M_MISSING_TOKEN")
	a = test.want(test.call(GET, "/.well-known/matrix/client", "", nil), 200, "")
	if a.body["m.homeserver"].(map[string]any)["base_url"] != "https://matrix.example.org" {
		t.Errorf("got %v", a.body)
	}
	test.want(test.call(GET, "/.well-known/matrix/server", "", nil), 404, "M_NOT_FOUND")
	test.want(test.call(GET, "/.well-known/matrix/support", "", nil), 404, "M_NOT_FOUND")
}

// TestDeactivatedLogin tells of the deactivation only who knows the password, and nobody once it is erased.
func TestDeactivatedLogin(t *testing.T) {
	each(t, func(t *tester) {
		for name, test := range map[string]struct {
			erase bool
			code  string
		}{"alice": {false, "M_USER_DEACTIVATED"}, "bob": {true, "M_FORBIDDEN"}} {
			user, token := t.register(name)
			t.want(t.call(POST, v3+"/account/deactivate", token, map[string]any{"erase": test.erase, "auth": passwordAuth(user, "superuser")}), 200, "")
			t.want(t.call(POST, v3+"/login", "", passwordAuth(user, "superuser")), 403, test.code)
			t.want(t.call(POST, v3+"/login", "", passwordAuth(user, "wrong")), 403, "M_FORBIDDEN")
		}
	})
}

// TestRegistrationLimit counts accounts that are asked for, not questions how to.
func TestRegistrationLimit(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), func(a *API) {
		a.Limits = Limits{Enabled: true, Registration: Class{PerAddress: Rate{1, time.Hour}}}
	})
	for range 3 {
		test.want(test.call(POST, v3+"/register", "", map[string]any{"username": "alice", "password": "superuser"}), 401, "")
	}
	test.register("alice")
	auth := map[string]any{"username": "bob", "password": "superuser", "auth": map[string]string{"type": "m.login.dummy"}}
	test.want(test.call(POST, v3+"/register", "", auth), 429, "M_LIMIT_EXCEEDED")
}
