package clientsync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// asked writes an invite or a knock as other servers' come.
func (w *world) asked(name, membership string, roomID id.RoomID, shown store.Asked) {
	w.t.Helper()
	ctx := context.Background()
	nid, err := w.db.NextNumber(ctx)
	w.must(err)
	w.must(w.db.Update(ctx, func(tx *store.Tx) error {
		v, _ := event.VersionOf("11")
		if err := tx.Rooms.Insert(&store.Room{NID: store.RoomNID(nid), ID: roomID, Version: v}, store.Head{}); err != nil {
			return err
		}
		who := []id.UserID{user(name)}
		change := stream.Change{Kind: stream.Event, Room: roomID, NID: nid, Members: true, Moved: who, Wake: who}
		tx.Log(change, func(p stream.Position) error {
			return tx.Memberships.Set(store.Membership{
				Room: store.RoomNID(nid), User: user(name), Membership: membership, Event: store.EventNID(nid), Position: p, Asked: &shown,
			}, "", true)
		})
		return nil
	}))
}

// body is the answer as the client gets it.
func (c *client) body() []byte {
	c.w.t.Helper()
	a, err := c.w.sync.Sync(context.Background(), c.r)
	c.w.must(err)
	defer a.Close()
	c.r.Since = &a.Next
	return a.Body
}

// TestInvitesAreBoundedInBytes: what many invites show of their rooms is bounded for each server, each user of this one and
// the answer. The smallest come whole, and none is lost.
func TestInvitesAreBoundedInBytes(t *testing.T) {
	const large, each, limit = 60 << 10, 256 << 10, 2 << 20
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		gradually, since := w.client("bob", ""), w.client("bob", "")
		gradually.next()
		since.next()
		count := 0
		invite := func(sender id.UserID, membership string, size int) id.RoomID {
			count++
			name := id.RoomID(fmt.Sprintf("!%d:far.test", count))
			w.asked("bob", membership, name, store.Asked{
				Sender: sender, Bytes: size, Stripped: fmt.Appendf(nil, `[{"type":"whole","x":%q}]`, strings.Repeat("x", size-30)), Brief: []byte(`[{"type":"brief"}]`),
			})
			return name
		}
		shownAs := func(kind string, shown map[id.RoomID]json.RawMessage) (n int) {
			for _, raw := range shown {
				if bytes.Contains(raw, []byte(`"type":"`+kind+`"`)) {
					n++
				}
			}
			return n
		}
		invites := func(body []byte) map[id.RoomID]json.RawMessage {
			var a struct {
				Rooms struct{ Invite, Knock map[id.RoomID]json.RawMessage }
			}
			w.must(json.Unmarshal(body, &a))
			for name, raw := range a.Rooms.Knock {
				a.Rooms.Invite[name] = raw
			}
			return a.Rooms.Invite
		}
		for i := range 10 {
			invite("@eve:far.test", "invite", large)
			invite(id.UserID(fmt.Sprintf("@eve%d:far.test", i)), "invite", large)
			invite(user("mallory"), "invite", large)
		}
		small := []id.RoomID{invite("@eve:far.test", "invite", 100), invite(user("mallory"), "invite", 100), invite(user("carol"), "invite", 1000), invite(user("bob"), "knock", 1000)}
		for what, c := range map[string]*client{"the first sync": w.client("bob", ""), "the next": gradually} {
			body := c.body()
			list := invites(body)
			if len(list) != count {
				t.Errorf("%s tells of %d of %d rooms", what, len(list), count)
			}
			if n := shownAs("whole", list); n != 2*(each/large)+len(small) || len(body) > 2*each+large {
				t.Errorf("%s shows %d rooms whole in %d bytes", what, n, len(body))
			}
			for _, name := range small {
				if !bytes.Contains(list[name], []byte(`"whole"`)) {
					t.Errorf("%s shows of %s only %s", what, name, list[name])
				}
			}
		}
		for i := range limit/each + 2 {
			for range each / large {
				invite(id.UserID(fmt.Sprintf("@eve:%d.test", i)), "invite", large)
			}
		}
		body := w.client("bob", "").body()
		if list := invites(body); len(list) != count || shownAs("whole", list)+shownAs("brief", list) != count || len(body) > limit+large || len(body) < limit-2*large {
			t.Errorf("%d of %d rooms are told in %d bytes", len(list), count, len(body))
		}
		body = since.body()
		if list := invites(body); len(list) != count || len(body) > limit+large {
			t.Errorf("after a while %d of %d rooms are told in %d bytes", len(list), count, len(body))
		}
	})
}
