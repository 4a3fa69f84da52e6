package clientsync

import (
	"encoding/json"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxHeroes is how many members name a room that has no name.
const maxHeroes = 5

// summary reads what is shown of a room as a whole, with the members by whom clients name it if it has no name.
func (b *builder) summary(v *visit) (*summary, error) {
	if v.summary != nil {
		return v.summary, nil
	}
	stored, err := b.tx.Rooms.Summary(v.room)
	if err != nil {
		return nil, err
	}
	v.summary = &summary{Summary: stored}
	if stored.Name != "" || stored.CanonicalAlias != "" {
		return v.summary, nil
	}
	v.summary.heroes, err = b.tx.Memberships.Heroes(v.room, b.p.user, true, maxHeroes)
	if err == nil && len(v.summary.heroes) == 0 {
		v.summary.heroes, err = b.tx.Memberships.Heroes(v.room, b.p.user, false, maxHeroes)
	}
	return v.summary, err
}

type summary struct {
	store.Summary
	heroes []id.UserID
}

// summarized says whether the number of members, or whom the room is named by, may have changed: also because its name was
// taken away.
func (v *visit) summarized(t *timeline) bool { return v.w.members || t.limited || t.hid || t.named }

// names says whether an event may change what a room is called, by itself or by redacting what did.
func names(ev *store.Event) bool {
	return ev.StateKeyIs("m.room.name", "") || ev.StateKeyIs("m.room.canonical_alias", "") || ev.Type == event.TypeRedaction
}

// roomSummary tells how many are in a room, and its heroes, if that may have changed.
func (b *builder) roomSummary(s *section, v *visit, t *timeline) error {
	if !v.summarized(t) || len(s.buf) == 0 {
		return nil
	}
	summary, err := b.summary(v)
	if err != nil {
		return err
	}
	s.member("summary")
	s.buf = append(s.buf, '{')
	if summary.Name == "" && summary.CanonicalAlias == "" {
		s.buf = append(appendUsers(append(s.buf, `"m.heroes":`...), summary.heroes), ',')
	}
	s.buf = strconv.AppendInt(append(s.buf, `"m.invited_member_count":`...), max(0, summary.InvitedMembers), 10)
	s.buf = strconv.AppendInt(append(s.buf, `,"m.joined_member_count":`...), max(0, summary.JoinedMembers), 10)
	s.buf = append(s.buf, '}')
	return nil
}

const (
	// maxReceipts bounds the receipts of one room in an answer: the newest are told.
	maxReceipts = 2000
	// maxNames bounds the receipts, and the names of who types, of all rooms in an answer together. Beyond, each room has
	// leastNames of both.
	maxNames   = 20_000
	leastNames = 20
)

// namesLeft is how many receipts, or names of who types, of a room still fit into the answer, and at most so many.
func (b *builder) namesLeft(most int) int { return min(most, max(b.e.mostNames-b.named, leastNames)) }

// roomEphemeral tells who types and how far members have read.
func (b *builder) roomEphemeral(s *section, v *visit, typing []id.UserID) error {
	f := &b.f.Room.Ephemeral
	var events section
	if typing != nil && f.AllowsRoom(v.roomID) && f.Allows("m.typing", "") {
		seen := make([]id.UserID, 0, len(typing))
		for _, u := range typing {
			if !b.p.ignored[u] {
				seen = append(seen, u)
			}
		}
		seen = seen[:b.namesLeft(len(seen))]
		b.named += len(seen)
		events.event("m.typing", "", append(appendUsers([]byte(`{"user_ids":`), seen), '}'))
	}
	if v.w.receipts && f.AllowsRoom(v.roomID) && f.Allows("m.receipt", "") {
		from := b.since
		if v.fresh {
			from = 0
		}
		list, err := b.tx.Receipts.Changed(v.room, from, b.now, b.namesLeft(maxReceipts))
		if err != nil {
			return err
		}
		b.named += len(list)
		content, err := b.receiptContent(list)
		if err != nil {
			return err
		}
		if content != nil {
			events.event("m.receipt", "", content)
		}
	}
	if len(events.buf) > 0 || v.fresh {
		s.events("ephemeral", events)
	}
	return nil
}

type shownReceipt struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

// receiptContent is receipts as the content of an m.receipt event; nil if there are none to show. If a user has two for
// one event, that which is of no thread counts.
func (b *builder) receiptContent(list []store.Receipt) (json.RawMessage, error) {
	content := map[id.EventID]map[string]map[id.UserID]shownReceipt{}
	for _, r := range list {
		if r.Type == ephemeral.ReadPrivate && r.User != b.p.user || b.p.ignored[r.User] {
			continue
		}
		types := content[r.Event]
		if types == nil {
			types = map[string]map[id.UserID]shownReceipt{}
			content[r.Event] = types
		}
		if types[r.Type] == nil {
			types[r.Type] = map[id.UserID]shownReceipt{}
		}
		if _, other := types[r.Type][r.User]; !other || r.Thread == "" {
			types[r.Type][r.User] = shownReceipt{r.TS, r.Thread}
		}
	}
	if len(content) == 0 {
		return nil, nil
	}
	return json.Marshal(content)
}
