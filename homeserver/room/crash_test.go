package room_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// The child process of TestKilled gets its orders in these variables.
const (
	childDatabase = "SECURECOMM_TEST_CRASH_DATABASE"
	childRoom     = "SECURECOMM_TEST_CRASH_ROOM"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(childDatabase); address != "" {
		writeUntilKilled(address, id.RoomID(os.Getenv(childRoom)))
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled sends events, each naming the user that it invites as well, and prints the ID of each that was
// acknowledged.
func writeUntilKilled(address string, roomID id.RoomID) {
	db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 2, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	key, err := sign.NewKey()
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	e := &room.Engine{Store: db, Server: server, Key: key, Log: slog.New(slog.DiscardHandler), DefaultVersion: event.DefaultVersion}
	var out sync.Mutex
	say := func(words ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(words...)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				if w == 0 {
					target := user(fmt.Sprintf("u%d-%d", os.Getpid(), i))
					err := e.SetMembership(context.Background(), room.Change{Room: roomID, Sender: user("alice"), Target: target, Membership: "invite"})
					if err != nil {
						say("error", err)
						return
					}
					say("invited", target)
					continue
				}
				eventID, err := e.Send(context.Background(), room.Message{
					Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
					Request: &store.RequestKey{User: user("alice"), Device: "D", Scope: "send", TxnID: fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)},
				})
				if err != nil {
					say("error", err)
					return
				}
				say("sent", eventID)
			}
		}()
	}
	select {}
}

// TestKilled kills a process that writes, dozens of times, at any moment: whatever it acknowledged is there, no
// position was taken twice, and nothing is half done.
func TestKilled(t *testing.T) {
	rounds := 24
	if testing.Short() {
		rounds = 3
	}
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		roomID := create(t, engine(t, db), room.Creation{Preset: "private_chat"})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		sent, invited := map[id.EventID]bool{}, map[id.UserID]bool{}
		for range rounds {
			runAndKill(t, address, roomID, sent, invited)
		}
		if len(sent) < rounds || len(invited) < rounds {
			t.Fatalf("the children sent only %d events and %d invites", len(sent), len(invited))
		}
		checkAfterCrash(t, storetest.Open(t, address), roomID, sent, invited)
	})
}

func runAndKill(t *testing.T, address string, roomID id.RoomID, sent map[id.EventID]bool, invited map[id.UserID]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDatabase+"="+address, childRoom+"="+string(roomID))
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := func(line string) {
		what, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch what {
		case "sent":
			sent[id.EventID(value)] = true
		case "invited":
			invited[id.UserID(value)] = true
		default:
			t.Errorf("the child says %q", line)
		}
	}
	// Killed once it has written both kinds, after some more words: how many differs. Meanwhile its other writers are
	// anywhere in what they do.
	lines := bufio.NewReader(output)
	sentBefore, invitedBefore, more := len(sent), len(invited), rand.IntN(60)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // a torn last line says nothing
		}
		read(line)
		if len(sent) == sentBefore || len(invited) == invitedBefore {
			continue
		}
		if more--; more < 0 {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
}

// checkAfterCrash holds what was acknowledged, and the parts of each decision, against the database.
func checkAfterCrash(t *testing.T, db *store.DB, roomID id.RoomID, sent map[id.EventID]bool, invited map[id.UserID]bool) {
	t.Helper()
	err := db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		upto, err := tx.Position()
		if err != nil {
			return err
		}
		events, err := tx.Events.Range(r.NID, 0, upto, 1_000_000, false)
		if err != nil {
			return err
		}
		head, err := tx.Rooms.Head(r.NID)
		if err != nil {
			return err
		}
		state, err := tx.States.Map(head.State)
		if err != nil {
			return err
		}
		for i, ev := range events {
			delete(sent, ev.ID)
			if i > 0 && (ev.Position <= events[i-1].Position || len(ev.PrevEvents) != 1 || ev.PrevEvents[0] != events[i-1].ID) {
				t.Errorf("%s at %d follows %v, behind %s at %d", ev.ID, ev.Position, ev.PrevEvents, events[i-1].ID, events[i-1].Position)
			}
			if ev.Type != event.TypeMember {
				continue
			}
			user := id.UserID(*ev.StateKey)
			m, err := tx.Memberships.Get(r.NID, user)
			if err != nil {
				return err
			}
			now, err := tx.States.Event(state, ev.Tuple())
			if err != nil {
				return err
			}
			if m.Event != ev.NID || m.Position != ev.Position || now == nil || now.ID != ev.ID {
				t.Errorf("the invite of %s is half done: %+v, in the state %v", user, m, now)
			}
			delete(invited, user)
		}
		last := events[len(events)-1]
		if len(head.Extremities) != 1 || head.Extremities[0].NID != last.NID {
			t.Errorf("the head is %v, the last event %d", head.Extremities, last.NID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) > 0 || len(invited) > 0 {
		t.Errorf("%d events and %d invites were acknowledged and are gone", len(sent), len(invited))
	}
}
