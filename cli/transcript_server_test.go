package cli_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// onBoth are the transcripts that also run on PostgreSQL: what they ask of a server is asked in tests of their own as
// well, on both databases, and most of the time of the others goes into deriving keys from passwords.
var onBoth = []string{"talk", "federated-talk"}

// TestServerTranscripts runs the transcripts that need servers: each with one of its own ($ONE is its URL, $ONE_NAME its
// name, $ADMIN_TOKEN its first administrator's token), those named federated-* with two.
func TestServerTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/server/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		one := func(t *testing.T, one *hstest.Server) {
			token, err := one.Account.BootstrapToken(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			runTranscript(t, file, map[string]string{"ONE": one.URL, "ONE_NAME": string(one.Name), "ADMIN_TOKEN": token})
		}
		two := func(t *testing.T, one, two *hstest.Server) {
			runTranscript(t, file, map[string]string{"ONE": one.URL, "ONE_NAME": string(one.Name), "TWO": two.URL, "TWO_NAME": string(two.Name)})
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch federated, both := strings.HasPrefix(name, "federated-"), slices.Contains(onBoth, name); {
			case federated && both:
				hstest.EachPair(t, two)
			case federated:
				first, second := hstest.Pair(t)
				two(t, first, second)
			case both:
				hstest.Each(t, one)
			default:
				one(t, hstest.New(t))
			}
		})
	}
}

func runTranscript(t *testing.T, file string, env map[string]string) {
	params := transcripts("", func(e *testscript.Env) {
		for name, value := range env {
			e.Setenv(name, value)
		}
	})
	params.Files = []string{file}
	testscript.Run(t, params)
}
