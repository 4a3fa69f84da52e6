package federation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// holds counts what waits of a server.
func (p *peer) holds(origin id.ServerName) (n int64) {
	err := p.store.View(p.Context(), func(tx *store.Tx) error {
		sizes, err := tx.Held.Sizes()
		n = sizes[origin].Count
		return err
	})
	if err != nil {
		p.Error(err)
	}
	return n
}

// putOff has what waits wait for long, as if it had been tried often.
func (p *peer) putOff() {
	p.Helper()
	err := p.store.Update(p.Context(), func(tx *store.Tx) error {
		long := time.Now().Add(p.api.longest() / 2)
		_, err := tx.Held.Take(long, long, p.api.longest(), 100)
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
}

// awaitNone waits until nothing waits of some servers.
func (p *peer) awaitNone(what string, origins ...id.ServerName) {
	p.Helper()
	for _, origin := range origins {
		limit := time.Now().Add(time.Minute)
		for p.holds(origin) > 0 {
			if time.Now().After(limit) {
				p.Fatalf("%s: what waits of %s is not tried", what, origin)
			}
		}
	}
}

// TestEventsWhileJoining: what happens in a room once another server has a join, and is sent before the room is here, is in it
// afterwards, at once, however long it was to wait; it is dropped if the join fails. Nobody has this server hold events of
// rooms that no user comes into.
func TestEventsWhileJoining(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test", "out.test", "away.test")
		us := newPeer(t, n, "us.test", db)
		them, out := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db")), newPeer(t, n, "out.test", storetest.Open(t, t.TempDir()+"/out.db"))
		away := *them // whose keys nobody can have
		away.name = "away.test"
		var err error
		if away.key, err = sign.NewKey(); err != nil {
			t.Fatal(err)
		}
		send := func(by *peer, txn string, ev *event.Event) {
			status, answer := by.request(us, "PUT", "/_matrix/federation/v1/send/"+url.PathEscape(txn), fmt.Sprintf(`{"pdus":[%s]}`, ev.JSON), nil)
			if status != http.StatusOK {
				t.Errorf("%s: %d %v", txn, status, answer)
			}
		}
		for _, c := range []struct {
			what          string
			invited, fail bool
		}{{"a public room", false, false}, {"an invite", true, false}, {"a join that fails", false, true}, {"an accepted invite that fails", true, true}} {
			creation := room.Creation{Creator: bob, Preset: "public_chat"}
			if c.invited {
				creation.Preset = "private_chat"
			}
			roomID := them.create(creation)
			if c.invited {
				if err := them.rooms.Invite(t.Context(), room.Change{Room: roomID, Sender: bob, Target: alice}); err != nil {
					t.Fatal(err)
				}
			}
			message := func(by *peer, sender id.UserID, text string) *event.Event {
				return by.forge(them, roomID, event.Proto{Type: "m.room.message", Sender: sender, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
			}
			send(them, c.what, message(them, bob, "nobody is about to come in"))
			if n := us.holds(them.name); n != 0 {
				t.Errorf("%s: before, %d events are held", c.what, n)
			}
			var said *event.Event
			n.Serve(them.name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/send_join/") || said != nil {
					them.echo.ServeHTTP(w, r)
					return
				}
				answer := httptest.NewRecorder()
				if !c.fail {
					them.echo.ServeHTTP(answer, r)
				}
				said = message(them, bob, "welcome")
				send(them, "during "+c.what, said)
				send(out, "during "+c.what, message(&away, "@eve:away.test", "not welcome"))
				if mine, theirs := us.holds(them.name), us.holds(out.name); mine != 1 || theirs != 1 {
					t.Errorf("%s: meanwhile, %d events are held, and %d of another server", c.what, mine, theirs)
				}
				us.putOff()
				if c.fail {
					http.Error(w, `{"errcode":"M_FORBIDDEN","error":"no"}`, http.StatusForbidden)
				} else {
					_, _ = w.Write(answer.Body.Bytes())
				}
			}))
			if err := us.join(roomID, alice, them.name); (err != nil) != c.fail {
				t.Fatalf("%s: %v", c.what, err)
			}
			n.Serve(them.name, them.echo)
			if !c.fail {
				us.await(alice, said.ID)
			}
			us.awaitNone(c.what, them.name, out.name)
		}
	})
}
