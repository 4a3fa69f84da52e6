package eventauth_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestLevelValues has the specification's examples of levels in strings and floats.
func TestLevelValues(t *testing.T) {
	const highest = 1 << 62
	for _, c := range []struct {
		version, value string
		want           int64 // -999 if it is refused
	}{
		{"1", `"100"`, 100}, {"1", `"000100"`, 100}, {"1", `"+100"`, 100}, {"1", `"-100"`, -100},
		{"1", `" 100 "`, 100}, {"1", `" 00100 "`, 100}, {"1", `" +100 "`, 100}, {"9", `" -100 "`, -100},
		{"1", `"5 0"`, -999}, {"1", `"1e2"`, -999}, {"1", `"1.0"`, -999}, {"1", `""`, -999}, {"1", `"0x10"`, -999}, {"1", `"1_0"`, -999},
		{"1", `50.57`, 50}, {"5", `5.114698E4`, 51146}, {"1", `-50.57`, -50}, {"1", `1e400`, -999}, {"1", `1e300`, highest},
		{"1", `99999999999999999999`, highest}, {"1", `"-99999999999999999999"`, -highest},
		{"6", `50.57`, -999}, {"10", `50`, 50}, {"10", `"50"`, -999}, {"12", `true`, -999}, {"1", `[]`, -999}, {"1", `null`, -999},
	} {
		content := fmt.Sprintf(`{"users":{"@alice:one":%s},"users_default":-999}`, c.value)
		levels, err := eventauth.ParsePowerLevels(versionOf(t, id.RoomVersion(c.version)), json.RawMessage(content))
		if got := levels.User(alice); got != c.want || (err != nil) != (c.want == -999) {
			t.Errorf("version %s: %s is %d, %v; expected %d", c.version, c.value, got, err, c.want)
		}
	}
}

// FuzzParsePowerLevels holds that levels are usable whatever they were read from, and that reading is stable.
func FuzzParsePowerLevels(f *testing.F) {
	f.Add([]byte(`{"users":{"@a:one":100},"events":{"x":"50"},"ban":1.5}`))
	f.Add([]byte(`{"users":[],"notifications":null}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, name := range []id.RoomVersion{"1", "6", "12"} {
			v := versionOf(t, name)
			levels, err := eventauth.ParsePowerLevels(v, content)
			again, errAgain := eventauth.ParsePowerLevels(v, content)
			if levels == nil || (err == nil) != (errAgain == nil) || levels.User(alice) != again.User(alice) || levels.Event("x", true) != again.Event("x", true) {
				t.Errorf("version %s: %v, %v", name, err, errAgain)
			}
			if level := levels.User(alice); level >= eventauth.CreatorLevel {
				t.Errorf("version %s: a level of %d is not below a creator's", name, level)
			}
		}
	})
}

// BenchmarkAuthorizeMessage is what every message sent pays.
func BenchmarkAuthorizeMessage(b *testing.B) {
	branch := room(versionOf(b, event.DefaultVersion))
	ctx := eventauth.NewContext(branch.State, nil)
	e := branch.Make(message(carol))
	b.ReportAllocs()
	for b.Loop() {
		if err := ctx.Authorize(e, branch.State); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAuthorizeMessageAllocates holds that with a context at hand an ordinary message costs no memory, which
// means that no JSON is read.
func TestAuthorizeMessageAllocates(t *testing.T) {
	branch := room(versionOf(t, event.DefaultVersion))
	ctx := eventauth.NewContext(branch.State, nil)
	e := branch.Make(message(carol))
	if n := testing.AllocsPerRun(100, func() { _ = ctx.Authorize(e, branch.State) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
