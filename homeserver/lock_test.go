package homeserver_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
)

// Two servers on one embedded database would hear nothing of each other's writes: the second is refused.
func TestOneProcessOnADatabase(t *testing.T) {
	c := config.Dev()
	c.Server.Name, c.Server.DataDir, c.Federation.Enabled = "one.test", filepath.Join(t.TempDir(), "data"), false
	for range 2 { // what is closed can be opened again
		first, err := homeserver.New(context.Background(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if second, err := homeserver.New(context.Background(), c, slog.New(slog.DiscardHandler)); !errors.Is(err, homeserver.ErrInUse) {
			t.Errorf("the second got %v, %v", second, err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
