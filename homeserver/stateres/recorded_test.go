package stateres_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
)

// recording is a room made by chance with what Synapse 1.163.2 said of it. Events are named by their place;
// they lack hashes and true signatures.
type recording struct {
	Version     id.RoomVersion       `json:"version"`
	Events      [][2]json.RawMessage `json:"events"`      // ID, event
	Verdicts    [][3]json.RawMessage `json:"verdicts"`    // event, whether it is allowed, by which state
	Resolutions [][2]json.RawMessage `json:"resolutions"` // state sets, their resolution
}

// recorded is a recording's events.
type recorded map[id.EventID]*event.Event

func (r recorded) Event(eventID id.EventID) *event.Event { return r[eventID] }
func (recorded) Rejected(id.EventID) bool                { return false }

// TestRecorded holds our verdicts and resolutions against recorded ones, for three rooms of each version.
func TestRecorded(t *testing.T) {
	file, err := os.Open("testdata/synapse.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 1<<20)
	rooms := make(map[id.RoomVersion]int)
	for lines.Scan() {
		var r recording
		read(t, lines.Bytes(), &r)
		rooms[r.Version]++
		r.replay(t)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range event.Versions() {
		if rooms[name] != 3 {
			t.Errorf("%d rooms of version %s", rooms[name], name)
		}
	}
}

func read(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func (r *recording) replay(t *testing.T) {
	v, _ := event.VersionOf(r.Version)
	events, byID := make([]*event.Event, len(r.Events)), recorded{}
	for i, pair := range r.Events {
		var eventID id.EventID
		read(t, pair[0], &eventID)
		e, err := event.ParseTrusted(v, eventID, pair[1])
		if err != nil {
			t.Fatal(err)
		}
		events[i], byID[eventID] = e, e
	}
	state := func(places []int) (eventauth.Map, stateIDs) {
		state, ids := eventauth.Map{}, stateIDs{}
		for _, place := range places {
			e := events[place]
			state[e.Tuple()], ids[e.Tuple()] = e, e.ID
		}
		return state, ids
	}
	for _, verdict := range r.Verdicts {
		var place int
		var allowed bool
		var places []int
		read(t, verdict[0], &place)
		read(t, verdict[1], &allowed)
		read(t, verdict[2], &places)
		against, _ := state(places)
		if err := eventauth.Authorize(events[place], against, nil); (err == nil) != allowed {
			t.Errorf("version %s: %v, recorded as %v, of %s", r.Version, err, allowed, events[place].JSON)
		}
	}
	for i, resolution := range r.Resolutions {
		var sets [][]int
		var want []int
		read(t, resolution[0], &sets)
		read(t, resolution[1], &want)
		var ids []stateIDs
		for _, set := range sets {
			_, one := state(set)
			ids = append(ids, one)
		}
		_, expected := state(want)
		if got, err := resolveSets(v, ids, byID); err != nil || !maps.Equal(got, expected) {
			t.Errorf("version %s: resolution %d: %v", r.Version, i, err)
		}
	}
}
