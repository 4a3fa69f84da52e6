package event_test

import (
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
)

func TestHistoryVisibility(t *testing.T) {
	for content, want := range map[string]string{
		`{"history_visibility":"world_readable"}`: "world_readable",
		`{"history_visibility":"shared"}`:         "shared",
		`{"history_visibility":"invited"}`:        "invited",
		`{"history_visibility":"joined"}`:         "joined",
		`{"history_visibility":"friends"}`:        "shared",
		`{"history_visibility":1}`:                "shared",
		`{}`:                                      "shared",
		// Names of members are told apart by case, as other servers do.
		`{"HISTORY_VISIBILITY":"world_readable","history_visibility":"joined"}`: "joined",
		`{"History_visibility":"world_readable"}`:                               "shared",
	} {
		if got := event.HistoryVisibility([]byte(content)); got != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
}
