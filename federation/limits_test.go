package federation

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
)

// allocated is how many bytes are allocated, in all, while something is done.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestALimitOfAStrangerSizesNothing(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, us.name); err != nil {
			t.Fatal(err)
		}
		for range room.MaxBackfill + 1 {
			us.say(roomID, alice, "x")
		}
		latest := us.say(roomID, alice, "latest")
		used := allocated(func() {
			for limit, want := range map[int64]int{-1: 0, 2: 2, room.MaxBackfill + 1: room.MaxBackfill, 5_000_000: room.MaxBackfill} {
				body := fmt.Sprintf(`{"earliest_events":[],"latest_events":[%q],"limit":%d}`, latest, limit)
				status, answer := them.request(us, http.MethodPost, "/_matrix/federation/v1/get_missing_events/"+string(roomID), body, nil)
				if events, _ := answer["events"].([]any); status != http.StatusOK || len(events) != want {
					t.Errorf("limit %d: %d, %d events", limit, status, len(events))
				}
				found, err := us.rooms.BackfillFor(t.Context(), them.name, roomID, []id.EventID{latest}, int(limit))
				if err != nil || len(found) != max(want, 0) {
					t.Errorf("limit %d: %d events of the past, %v", limit, len(found), err)
				}
			}
		})
		if used > 64<<20 {
			t.Errorf("%d bytes were allocated", used)
		}
	})
}

// TestKeysAreAskedForInTurn: one server has only some requests for keys under way, and some more that wait.
func TestKeysAreAskedForInTurn(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		var leaves []func()
		for range costlyFor {
			leave, err := us.api.costly.enter(t.Context(), string(them.name))
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		ask := func(want int) {
			t.Helper()
			for path, body := range map[string]string{"query": `{"device_keys":{}}`, "claim": `{"one_time_keys":{}}`} {
				if status, answer := them.request(us, http.MethodPost, "/_matrix/federation/v1/user/keys/"+path, body, nil); status != want {
					t.Errorf("%s: %d %v, want %d", path, status, answer, want)
				}
			}
		}
		us.api.costly.mu.Lock()
		us.api.costly.waiting[string(them.name)] += costlyWaiting
		us.api.costly.mu.Unlock()
		ask(http.StatusTooManyRequests)
		us.api.costly.mu.Lock()
		us.api.costly.waiting[string(them.name)] -= costlyWaiting
		us.api.costly.mu.Unlock()
		for _, leave := range leaves {
			leave()
		}
		ask(http.StatusOK)
	})
}
