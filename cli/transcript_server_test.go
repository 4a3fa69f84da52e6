package cli_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestServerTranscripts runs the transcripts that need servers: each with one of its own ($ONE is its URL,
// $ONE_NAME its name, $ADMIN_TOKEN its first administrator's token), those named federated-* with two.
func TestServerTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/server/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			env := map[string]string{}
			if strings.HasPrefix(filepath.Base(file), "federated-") {
				one, two := hstest.Pair(t)
				env["ONE"], env["ONE_NAME"] = one.URL, string(one.Name)
				env["TWO"], env["TWO_NAME"] = two.URL, string(two.Name)
			} else {
				one := hstest.New(t)
				env["ONE"], env["ONE_NAME"] = one.URL, string(one.Name)
				token, err := one.Account.BootstrapToken(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				env["ADMIN_TOKEN"] = token
			}
			params := transcripts("", func(e *testscript.Env) {
				for name, value := range env {
					e.Setenv(name, value)
				}
			})
			params.Files = []string{file}
			testscript.Run(t, params)
		})
	}
}
