package config

import (
	"testing"
	"time"
)

func TestSizeText(t *testing.T) {
	for size, text := range map[Size]string{0: "0B", 1: "1B", 1023: "1023B", 1024: "1KiB", 50 * MiB: "50MiB", 1536 * MiB: "1536MiB", 3 << 30: "3GiB"} {
		if got := size.String(); got != text {
			t.Errorf("%d prints as %s, want %s", int64(size), got, text)
		}
		if got, err := parseSize(text); err != nil || got != size {
			t.Errorf("%s parses as %d, %v", text, int64(got), err)
		}
	}
	for text, size := range map[string]Size{"10": 10, "1 MiB": MiB, "2kB": 2000, "3MB": 3e6} {
		if got, err := parseSize(text); err != nil || got != size {
			t.Errorf("%s parses as %d, %v", text, int64(got), err)
		}
	}
}

func TestRateText(t *testing.T) {
	for text, rate := range map[string]Rate{
		"off": {}, "5/1s": {5, time.Second}, "100/10s": {100, 10 * time.Second}, "30/1m": {30, time.Minute}, "10/1h": {10, time.Hour},
		"2/1h30m": {2, 90 * time.Minute}, "2/1m30s": {2, 90 * time.Second},
	} {
		if got := rate.String(); got != text {
			t.Errorf("%#v prints as %s, want %s", rate, got, text)
		}
		if got, err := parseRate(text); err != nil || got != rate {
			t.Errorf("%s parses as %v, %v", text, got, err)
		}
	}
	for text, rate := range map[string]Rate{"5/s": {5, time.Second}, "5/m": {5, time.Minute}, "5/h": {5, time.Hour}, "5/1d": {5, 24 * time.Hour}} {
		if got, err := parseRate(text); err != nil || got != rate {
			t.Errorf("%s parses as %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "/s", "0/s", "-1/s", "5/", "5/x", "99999999999/s", "1/2/3s"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"same", "same", 0}, {"ab", "ba", 2}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
