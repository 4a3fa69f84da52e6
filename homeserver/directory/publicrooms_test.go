package directory

import (
	"testing"

	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/store"
)

// TestSearchOfRooms: case, and how letters are composed, makes no difference.
func TestSearchOfRooms(t *testing.T) {
	cafe := &store.Summary{Name: "Caf\u00c9"} // one code point
	for term, want := range map[string]bool{"caf\u00e9": true, "CAFE\u0301": true, "cafe": false} {
		if got := (&listing{q: Query{Search: term}, term: glob.Fold(term)}).wants(cafe); got != want {
			t.Errorf("%q: %v", term, got)
		}
	}
}
