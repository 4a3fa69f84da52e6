package canonicaljson_test

import (
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

func TestCommas(t *testing.T) {
	for raw, want := range map[string][2]int{
		``: {0, 0}, `[1,2]`: {1, 1}, `{"a":[1,2],"b":[[3,4],{"c":5,"d":6}]}`: {3, 5}, `{"a,\",":"\\","b":1}`: {1, 1}, `{"a,`: {0, 0},
	} {
		if shallow, all := canonicaljson.Commas([]byte(raw)); shallow != want[0] || all != want[1] {
			t.Errorf("%s: %d, %d", raw, shallow, all)
		}
	}
}
