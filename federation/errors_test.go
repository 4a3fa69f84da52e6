package federation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store"
)

// TestFaultsAreNotDescribed: another server is told that the database fails, not where it is or what it was asked.
func TestFaultsAreNotDescribed(t *testing.T) {
	for _, fault := range []error{store.ErrUnavailable, store.ErrClosed} {
		f := asFailure(fmt.Errorf("SELECT secret: %w: read tcp 10.0.0.2:1->10.0.0.5:5432", fault))
		if f == nil || f.status != 503 || strings.Contains(f.message, "SELECT") || strings.Contains(f.message, "10.0.0") {
			t.Errorf("%v is told as %+v", fault, f)
		}
	}
}
