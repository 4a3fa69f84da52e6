package clientapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestFormerNamesHaveRoutes walks the tables of former names and of features, and asks a server for each of them.
func TestFormerNamesHaveRoutes(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	served := map[string][]string{} // methods by path
	for _, r := range test.api.routes() {
		for _, path := range r.paths() {
			served[path] = append(served[path], r.method)
		}
	}
	for _, f := range test.api.formerNames() {
		now, former := served[prefix+f.stable], served[prefix+unstable+f.path]
		if len(now) == 0 || !slices.Equal(now, former) {
			t.Errorf("%s is served for %v, and %s for %v", f.stable, now, f.path, former)
		}
	}
	for _, f := range features {
		if len(served[prefix+f.path]) == 0 {
			t.Errorf("/versions tells of %s, but nothing is served at %s", f.name, f.path)
		}
	}
	said := test.call(GET, "/_matrix/client/versions", "", nil).body["unstable_features"].(map[string]any)
	if len(said) != len(features) {
		t.Errorf("/versions tells of %d features, not of %d", len(said), len(features))
	}
	for path, methods := range served {
		version, rest, _ := strings.Cut(strings.TrimPrefix(path, prefix+"/"), "/")
		if version != "v1" && version != "v3" || !strings.HasPrefix(path, prefix) {
			continue
		}
		for _, method := range methods {
			a := test.call(method, prefix+unstable+strings.ReplaceAll(rest, ":", "x"), "nosuchtoken", "{")
			if code := a.body["errcode"]; code == "M_UNRECOGNIZED" {
				t.Errorf("%s %s is not there under unstable", method, path)
			}
		}
	}
}
