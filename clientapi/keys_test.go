package clientapi

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// eachWithKeys is each on a server that has a key service.
func eachWithKeys(t *testing.T, test func(*tester)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		test(newTester(t, db, func(a *API) {
			a.Keys = &keys.Service{Store: db, Server: a.Server, Log: slog.New(slog.DiscardHandler)}
		}))
	})
}

func deviceKeys(userID, deviceID string) map[string]any {
	return map[string]any{
		"user_id": userID, "device_id": deviceID, "algorithms": []string{"m.megolm.v1.aes-sha2"},
		"keys": map[string]string{"ed25519:" + deviceID: "x"}, "signatures": map[string]any{},
	}
}

func TestKeyFlow(t *testing.T) {
	eachWithKeys(t, func(t *tester) {
		alice, _ := t.register("alice")
		device, token := t.login(alice, "superuser")
		bob, bobToken := t.register("bob")

		upload := v3 + "/keys/upload"
		oneTime := map[string]any{"signed_curve25519:a": map[string]any{"key": "k"}}
		a := t.want(t.call(POST, upload, token, map[string]any{"device_keys": deviceKeys(alice, device), "one_time_keys": oneTime}), 200, "")
		if counts := a.body["one_time_key_counts"].(map[string]any); counts["signed_curve25519"] != 1.0 {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(POST, upload, bobToken, map[string]any{"device_keys": map[string]any{"user_id": bob, "device_id": "x"}}), 400, "M_BAD_JSON")
		t.want(t.call(POST, upload, bobToken, map[string]any{"device_keys": deviceKeys(alice, device)}), 400, "M_INVALID_PARAM")
		t.want(t.call(POST, upload, token, `{"one_time_keys":{"signed_curve25519:a":{"key":"another"}}}`), 400, "M_INVALID_PARAM")

		query := v3 + "/keys/query"
		a = t.want(t.call(POST, query, bobToken, map[string]any{"device_keys": map[string]any{alice: []string{}, bob: []string{}}}), 200, "")
		found := a.body["device_keys"].(map[string]any)
		if found[alice].(map[string]any)[device] == nil || len(found[bob].(map[string]any)) != 0 || a.body["failures"] == nil {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(POST, query, bobToken, map[string]any{"device_keys": map[string]any{alice: map[string]bool{device: true}}}), 400, "M_BAD_JSON")
		t.want(t.call(POST, query, bobToken, `{"device_keys":{"alice":[]}}`), 400, "M_INVALID_PARAM")

		want := map[string]any{"one_time_keys": map[string]any{alice: map[string]string{device: "signed_curve25519"}}}
		a = t.want(t.call(POST, v3+"/keys/claim", bobToken, want), 200, "")
		if len(a.body["one_time_keys"].(map[string]any)) != 1 {
			t.Errorf("got %v", a.body)
		}
		a = t.want(t.call(POST, v3+"/keys/claim", bobToken, want), 200, "")
		if len(a.body["one_time_keys"].(map[string]any)) != 0 {
			t.Errorf("got %v", a.body)
		}

		now := stream.Token{Position: t.api.Store.Hub.Current()}.String()
		a = t.want(t.call(GET, v3+"/keys/changes?from=s0&to="+now, token, nil), 200, "")
		if changed := a.body["changed"].([]any); len(changed) != 1 || changed[0] != alice {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(GET, v3+"/keys/changes?from=s0", token, nil), 400, "M_MISSING_PARAM")
		t.want(t.call(GET, v3+"/keys/changes?from=s0&to=x", token, nil), 400, "M_INVALID_PARAM")
	})
}

func TestCrossSigningFlow(t *testing.T) {
	eachWithKeys(t, func(t *tester) {
		alice, token := t.register("alice")
		masterKey := func(letter string) map[string]any {
			public := strings.Repeat(letter, 43)
			return map[string]any{"master_key": map[string]any{
				"user_id": alice, "usage": []string{"master"}, "keys": map[string]string{"ed25519:" + public: public},
			}}
		}
		path := v3 + "/keys/device_signing/upload"
		t.want(t.call(POST, path, token, masterKey("A")), 200, "")
		t.want(t.call(POST, path, token, masterKey("A")), 200, "")
		if a := t.want(t.call(POST, path, token, masterKey("E")), 401, ""); a.body["flows"] == nil {
			t.Errorf("got %v", a.body)
		}
		second := masterKey("E")
		second["auth"] = passwordAuth(alice, "superuser")
		t.want(t.call(POST, path, token, second), 200, "")
		t.want(t.call(POST, path, token, `{}`), 400, "M_BAD_JSON")
		a := t.want(t.call(POST, v3+"/keys/signatures/upload", token, map[string]any{alice: map[string]any{"GONE": map[string]any{}}}), 200, "")
		failures := a.body["failures"].(map[string]any)[alice].(map[string]any)
		if failures["GONE"].(map[string]any)["errcode"] != "M_NOT_FOUND" {
			t.Errorf("got %v", a.body)
		}
	})
}

func TestToDeviceFlow(t *testing.T) {
	eachWithKeys(t, func(t *tester) {
		_, token := t.register("alice")
		path := v3 + "/sendToDevice/my.test.type/1"
		t.want(t.call(PUT, path, token, `{"messages":{"@alice:example.org":{"*":{"a":1}}}}`), 200, "")
		t.want(t.call(PUT, path, token, `{}`), 400, "M_MISSING_PARAM")
		t.want(t.call(PUT, v3+"/sendToDevice/my.test.type/2", token, `{"messages":{"@alice:example.org":{"*":1}}}`), 400, "M_INVALID_PARAM")
	})
}

func TestKeyBackupFlow(t *testing.T) {
	eachWithKeys(t, func(t *tester) {
		_, token := t.register("alice")
		versions, all := v3+"/room_keys/version", v3+"/room_keys/keys"
		t.want(t.call(GET, versions, token, nil), 404, "M_NOT_FOUND")
		create := `{"algorithm":"m.megolm_backup.v1","auth_data":{"foo":"bar"}}`
		version := t.want(t.call(POST, versions, token, create), 200, "").body["version"].(string)
		t.want(t.call(POST, versions, token, `{"algorithm":"x"}`), 400, "M_BAD_JSON")

		of := "?version=" + version
		session := all + "/%21foo:hs1/s%2F1" + of
		key := `{"first_message_index":10,"forwarded_count":5,"is_verified":false,"session_data":{"a":"b"}}`
		a := t.want(t.call(PUT, session, token, key), 200, "")
		if a.body["count"] != 1.0 || a.body["etag"] == "" {
			t.Errorf("got %v", a.body)
		}
		if a = t.want(t.call(GET, session, token, nil), 200, ""); a.body["first_message_index"] != 10.0 {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(PUT, all+"/%21foo:hs1"+of, token, `{"sessions":{"s2":`+key+`}}`), 200, "")
		t.want(t.call(PUT, all+of, token, `{"rooms":{"!bar:hs1":{"sessions":{"s3":`+key+`}}}}`), 200, "")
		a = t.want(t.call(GET, all+of, token, nil), 200, "")
		inRoom := a.body["rooms"].(map[string]any)["!foo:hs1"].(map[string]any)["sessions"].(map[string]any)
		if inRoom["s/1"] == nil || inRoom["s2"] == nil {
			t.Errorf("got %v", a.body)
		}
		if a = t.want(t.call(GET, all+"/%21none:hs1"+of, token, nil), 200, ""); a.body["sessions"] == nil {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(GET, all+"/%21none:hs1/s"+of, token, nil), 404, "M_NOT_FOUND")
		t.want(t.call(GET, all, token, nil), 400, "M_MISSING_PARAM")
		if a = t.want(t.call(DELETE, all+"/%21foo:hs1"+of, token, nil), 200, ""); a.body["count"] != 1.0 {
			t.Errorf("got %v", a.body)
		}

		// More than are read and written at a time.
		many := make([]string, 450)
		for i := range many {
			many[i] = fmt.Sprintf(`"s%d":%s`, i, key)
		}
		sessions := `{"sessions":{` + strings.Join(many, ",") + `}}`
		if a = t.want(t.call(PUT, all+of, token, `{"rooms":{"!a:hs1":`+sessions+`,"!b:hs1":`+sessions+`}}`), 200, ""); a.body["count"] != 901.0 {
			t.Errorf("got %v", a.body)
		}
		a = t.want(t.call(GET, all+of, token, nil), 200, "")
		rooms := a.body["rooms"].(map[string]any)
		for room, n := range map[string]int{"!a:hs1": 450, "!b:hs1": 450, "!bar:hs1": 1} {
			if got := rooms[room].(map[string]any)["sessions"].(map[string]any); len(got) != n || len(rooms) != 3 {
				t.Errorf("%d keys of %s among %d rooms", len(got), room, len(rooms))
			}
		}
		if a = t.want(t.call(GET, all+"/%21b:hs1"+of, token, nil), 200, ""); len(a.body["sessions"].(map[string]any)) != 450 {
			t.Errorf("%d keys of a room", len(a.body["sessions"].(map[string]any)))
		}

		second := t.want(t.call(POST, versions, token, create), 200, "").body["version"].(string)
		if a = t.want(t.call(PUT, session, token, key), 403, "M_WRONG_ROOM_KEYS_VERSION"); a.body["current_version"] != second {
			t.Errorf("got %v", a.body)
		}
		t.want(t.call(PUT, versions+"/"+second, token, `{"algorithm":"other","auth_data":{}}`), 400, "M_INVALID_PARAM")
		t.want(t.call(PUT, versions+"/"+second, token, `{"algorithm":"m.megolm_backup.v1","auth_data":{"n":1},"version":"3"}`), 400, "M_INVALID_PARAM")
		t.want(t.call(PUT, versions+"/"+second, token, `{"algorithm":"m.megolm_backup.v1","auth_data":{"n":1}}`), 200, "")
		t.want(t.call(DELETE, versions+"/"+second, token, nil), 200, "")
		if a = t.want(t.call(GET, versions, token, nil), 200, ""); a.body["version"] != version {
			t.Errorf("got %v", a.body)
		}
	})
}

// TestCostlyKeyCallsOfAUserComeOneByOne: who has as many under way as may be waits, and only so many do.
func TestCostlyKeyCallsOfAUserComeOneByOne(t *testing.T) {
	eachWithKeys(t, func(test *tester) {
		user, token := test.register("alice")
		who := id.UserID(user)
		for _, c := range []struct {
			places       *places
			most, inLine int
			method, path string
			body         map[string]any
		}{
			{&test.api.claims, maxClaims, inLine, POST, "/v3/keys/claim", map[string]any{"one_time_keys": map[string]any{}}},
			{&test.api.queries, maxQueries, queriesInLine, POST, "/v3/keys/query", map[string]any{"device_keys": map[string]any{}}},
			{&test.api.signing, 1, inLine, POST, "/v3/keys/signatures/upload", map[string]any{}},
			{&test.api.sends, 1, sendsInLine, PUT, "/v3/sendToDevice/t/1", map[string]any{"messages": map[string]any{}}},
		} {
			test.want(test.call(c.method, prefix+c.path, token, c.body), 200, "")
			var leaves []func()
			for range c.most {
				leave, err := c.places.enter(who, c.most)
				if err != nil {
					t.Fatal(c.path, err)
				}
				leaves = append(leaves, leave)
			}
			for range c.inLine {
				if !c.places.line(who, 1) {
					t.Fatal(c.path, "the line is full")
				}
			}
			test.want(test.call(c.method, prefix+c.path, token, c.body), 429, "M_LIMIT_EXCEEDED")
			c.places.line(who, -c.inLine)
			for _, leave := range leaves {
				leave()
			}
			test.want(test.call(c.method, prefix+c.path, token, c.body), 200, "")
		}
	})
}

// TestAnswersToKeyQueriesAreCharged: what they take up while they go out counts as what requests take up.
func TestAnswersToKeyQueriesAreCharged(t *testing.T) {
	eachWithKeys(t, func(test *tester) {
		user, token := test.register("alice")
		err := test.api.Store.Update(t.Context(), func(tx *store.Tx) error {
			for i := range 5 {
				k := store.IdentityKeys{User: id.UserID(user), Device: id.DeviceID(fmt.Sprint(i)), JSON: []byte(`{"x":"` + strings.Repeat("x", 30<<10) + `"}`)}
				if err := tx.DeviceKeys.Set(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		query := func(code int, errcode string) {
			test.want(test.call(POST, prefix+"/v3/keys/query", token, map[string]any{"device_keys": map[string]any{user: []any{}}}), code, errcode)
		}
		query(200, "")
		test.api.Sync = &clientsync.Engine{Answers: load.Stage{Each: userLoad, All: allLoad}}
		stage := &test.api.Sync.Answers
		all := stage.All
		stage.All = 200 << 10
		query(429, "M_LIMIT_EXCEEDED")
		stage.All = 400 << 10
		query(200, "")
		if stage.All = all; stage.Held() != 0 {
			t.Errorf("%d bytes stay charged", stage.Held())
		}
	})
}

// TestMessagesToManyServersCountAsMany: who names many other servers may do so less often.
func TestMessagesToManyServersCountAsMany(t *testing.T) {
	eachWithKeys(t, func(test *tester) {
		_, token := test.register("alice")
		test.api.limiter = newLimiter(Limits{Enabled: true, Message: Class{PerUser: Rate{10, time.Hour}}})
		defer func() { test.api.limiter = newLimiter(Limits{}) }()
		send := func(txn string, servers, code int) {
			t.Helper()
			messages := map[string]any{}
			for i := range servers {
				messages[fmt.Sprintf("@u:h%d.test", i)] = map[string]any{"*": map[string]any{}}
			}
			a := test.call(PUT, prefix+"/v3/sendToDevice/t/"+txn, token, map[string]any{"messages": messages})
			if a.code != code {
				t.Errorf("%s: %d, want %d", txn, a.code, code)
			}
		}
		send("few", serversPerCall-1, 200)     // one of ten
		send("many", 4*serversPerCall, 200)    // five more
		send("as-many", 4*serversPerCall, 429) // one more, but not five
		send("again-few", serversPerCall-1, 200)
	})
}
