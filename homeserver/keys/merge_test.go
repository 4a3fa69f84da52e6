package keys

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

// TestMergeTakesOnePass: what signatures cost does not grow with how many there are already.
func TestMergeTakesOnePass(t *testing.T) {
	object := func(format string) []byte {
		all := []byte{'{'}
		for i := range 1500 {
			all = fmt.Appendf(all, format+",", i)
		}
		all[len(all)-1] = '}'
		return canonicaljson.With([]byte(`{"user_id":"@a:h"}`), "signatures", all)
	}
	for what, pair := range map[string][2][]byte{
		"of different signers": {object(`"a%04d":{"":""}`), object(`"b%04d":{"":""}`)},
		"of the same signers":  {object(`"a%04d":{"a":""}`), object(`"a%04d":{"b":""}`)},
	} {
		var merged []byte
		made := testing.AllocsPerRun(2, func() { merged, _ = mergeSignatures(pair[0], pair[1]) })
		if made > 5*1500 {
			t.Errorf("%s: %v allocations", what, made)
		}
		if canonical, err := canonicaljson.Canonicalize(merged); err != nil || !bytes.Equal(canonical, merged) || bytes.Count(merged, []byte(`:""`)) != 3000 {
			t.Errorf("%s: merged to %.100s, %v", what, merged, err)
		}
	}
}
