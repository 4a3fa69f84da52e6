package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxSearched is how many events are looked at for one search, and maxSearchedSize how many bytes of them, in all
	// rooms together.
	maxSearched     = 20_000
	maxSearchedSize = 32 << 20
	// maxRooms is how many rooms are looked into: those that the reader came into last.
	maxRooms = 1000
	// searchBatch is how many events are read at once, and searchBatchSize how many bytes of them.
	searchBatch     = 500
	searchBatchSize = 1 << 20
	// maxFound is how many of them may match; the rest is not counted.
	maxFound = 2000
	// maxResults is how many results are returned at once.
	maxResults = 100
	// maxResultsSize is how many bytes of events are results: the event by which it is reached is the last of a page.
	maxResultsSize = 1 << 20
	// maxAroundSize is how many bytes of events stand around the results of a page, and of their senders' profiles.
	maxAroundSize = 2 << 20
	// maxStateSize is how many bytes of state are returned: rooms whose state does not fit are left out.
	maxStateSize = 2 << 20
	// maxStateEntries is how many pieces of state are weighed for that.
	maxStateEntries = 20_000
	// leastStateSize is how many bytes a state event has at least, about.
	leastStateSize = 200
	// maxTextSize is how many bytes of a text are looked at.
	maxTextSize = 16 << 10
)

// Search is what is looked for in the messages, names and topics of the reader's rooms.
type Search struct {
	Term         string
	Keys         []string // "content.body", "content.name", "content.topic"; empty: all
	Filter       *filter.RoomEvents
	Recent       bool // the newest first, instead of the best
	Context      *SearchContext
	IncludeState bool
	GroupBy      []string // "room_id", "sender"
	From         string   // Found.Next of the page before
}

// SearchContext says what is wanted around each result.
type SearchContext struct {
	Before, After int
	Profiles      bool // also how the senders were shown at the time
}

// Found is a page of results.
type Found struct {
	Count      int                                   `json:"count"`
	Highlights []string                              `json:"highlights"`
	Results    []Result                              `json:"results"`
	State      map[id.RoomID][]json.RawMessage       `json:"state,omitempty"`
	Groups     map[string]map[string]*ResultsOfGroup `json:"groups,omitempty"`
	Next       string                                `json:"next_batch,omitempty"`
}

// Result is one event that was found.
type Result struct {
	Rank    float64         `json:"rank"`
	Event   json.RawMessage `json:"result"`
	Context *ResultContext  `json:"context,omitempty"`
}

// ResultContext is what stands around a result.
type ResultContext struct {
	Start    string                `json:"start"`
	End      string                `json:"end"`
	Before   []json.RawMessage     `json:"events_before"`
	After    []json.RawMessage     `json:"events_after"`
	Profiles map[id.UserID]Profile `json:"profile_info,omitempty"`
}

// Profile is how a user was shown.
type Profile struct {
	DisplayName json.RawMessage `json:"displayname,omitempty"`
	AvatarURL   json.RawMessage `json:"avatar_url,omitempty"`
}

// ResultsOfGroup are those results of a page that have a room or a sender in common.
type ResultsOfGroup struct {
	Order   int          `json:"order"`
	Results []id.EventID `json:"results"`
}

// match is an event that was found.
type match struct {
	room id.RoomID
	ev   *store.Event
	rank float64
}

// Search finds events in the rooms that the reader is or was in (POST /search). It looks at a bounded number of the
// newest events, and ends with the context. What is encrypted cannot be found. Error: ErrBadRequest.
func (s *Service) Search(ctx context.Context, r Reader, q Search) (*Found, error) {
	skip, err := q.offset()
	if err != nil {
		return nil, err
	}
	words := wordsOf(q.Term)
	out := &Found{Highlights: words, Results: []Result{}}
	if len(words) == 0 {
		out.Highlights = []string{}
		return out, nil
	}
	found, err := s.find(ctx, r, &q, words, maxSearched, maxSearchedSize)
	if err != nil {
		return nil, err
	}
	q.sort(found)
	out.Count = len(found)
	found = found[min(skip, len(found)):]
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		p := &page{Search: &q, tx: tx, reader: r, views: map[id.RoomID]*View{}, around: maxAroundSize}
		n, err := p.fit(found)
		if err != nil {
			return err
		}
		// A full page is followed by another one, which may be empty: clients look for the token.
		if n > 0 && (n < len(found) || n == q.Filter.Count(DefaultLimit, maxResults)) {
			out.Next = "o" + strconv.Itoa(skip+n)
		}
		shown := found[:n]
		p.left, out.Groups = n, q.groups(shown)
		if out.Results, err = p.results(shown); err != nil {
			return err
		}
		out.State, err = p.states(shown)
		return err
	})
	return out, err
}

// fit is how many of the results that are left are on this page.
func (p *page) fit(found []match) (int, error) {
	found = found[:min(len(found), p.Filter.Count(DefaultLimit, maxResults))]
	for i, size := 0, 0; i < len(found); i++ {
		if size >= maxResultsSize {
			return i, nil
		}
		v, err := p.view(found[i].room)
		if err != nil {
			return 0, err
		}
		n, err := v.weigh([]*store.Event{found[i].ev}, style{})
		if err != nil {
			return 0, err
		}
		size += n[0]
	}
	return len(found), nil
}

func (q *Search) offset() (int, error) {
	if q.From == "" {
		return 0, nil
	}
	rest, ok := strings.CutPrefix(q.From, "o")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 0 {
		return 0, fmt.Errorf("%w: next_batch is not of this server", ErrBadRequest)
	}
	return n, nil
}

// find looks through the reader's rooms at so many events and bytes, in each at an equal share of what is left. Texts are compared while no snapshot
// is held, since strangers wrote them and the terms.
func (s *Service) find(ctx context.Context, r Reader, q *Search, words []string, events, size int) ([]match, error) {
	var rooms []store.Membership
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.Memberships.ByUser(r.User, "join", "leave", "ban")
		return err
	})
	if err != nil {
		return nil, err
	}
	rooms = slices.DeleteFunc(rooms, func(m store.Membership) bool { return m.Forgotten || !q.Filter.AllowsRoom(m.RoomID) })
	slices.SortFunc(rooms, func(a, b store.Membership) int { return cmp.Compare(b.Position, a.Position) })
	rooms = rooms[:min(len(rooms), maxRooms)]
	var out []match
	for i, m := range rooms {
		n, most := events/(len(rooms)-i), size/(len(rooms)-i)
		l := &looking{Service: s, ctx: ctx, reader: r, room: m.RoomID, events: n, size: most}
		found, err := l.findAll(q, words, maxFound-len(out))
		events, size = events-n+l.events, size-most+l.size
		if out = append(out, found...); err != nil || len(out) >= maxFound {
			return out, err
		}
	}
	return out, nil
}

// looking is a look through one room, in steps: each has a snapshot of its own.
type looking struct {
	*Service
	ctx          context.Context
	reader       Reader
	room         id.RoomID
	upto         stream.Position // how far it is still to go
	events, size int             // what may still be looked at
	begun, done  bool
}

// findAll finds the newest events in the room that match, at most so many.
func (l *looking) findAll(q *Search, words []string, limit int) (out []match, err error) {
	pass := passes(l.room, q.Filter)
	for !l.done && len(out) < limit {
		batch, err := l.next()
		if err != nil {
			return nil, err
		}
		for _, ev := range batch {
			if err := l.ctx.Err(); err != nil {
				return nil, err
			}
			if !pass(ev) {
				continue
			}
			if rank := rankOf(q.text(ev), words); rank > 0 && len(out) < limit {
				out = append(out, match{l.room, ev, rank})
			}
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return l.visible(out)
}

// next reads on, towards the beginning of the room.
func (l *looking) next() (batch []*store.Event, err error) {
	err = l.Store.View(l.ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(l.room)
		if err != nil || room == nil {
			l.done = true
			return err
		}
		if !l.begun {
			v, err := Look(tx, room, l.reader)
			if err != nil || !v.inside {
				l.done = true
				return err
			}
			l.begun, l.upto = true, v.upto
		}
		var more bool
		batch, more, err = tx.Events.RangeWithin(room.NID, first, l.upto, min(l.events, searchBatch), min(l.size, searchBatchSize), true)
		l.done = !more
		return err
	})
	for _, ev := range batch {
		l.upto = ev.Position - 1
		l.events--
		l.size -= len(ev.JSON)
	}
	l.done = l.done || l.events <= 0 || l.size <= 0
	return batch, err
}

// visible leaves what the reader may see.
func (l *looking) visible(found []match) (out []match, err error) {
	err = l.Store.View(l.ctx, func(tx *store.Tx) error {
		out = nil
		v, err := find(tx, l.room, l.reader)
		if err != nil || v == nil || !v.inside {
			return err
		}
		for _, m := range found {
			seen, err := v.see(m.ev)
			if err != nil {
				return err
			}
			if seen == m.ev {
				out = append(out, m)
			}
		}
		return nil
	})
	return out, err
}

// searchable says which member of the content of which type of event is searched.
func searchable(typ string) string {
	switch typ {
	case "m.room.message":
		return "body"
	case "m.room.name":
		return "name"
	case "m.room.topic":
		return "topic"
	default:
		return ""
	}
}

func (q *Search) text(ev *store.Event) string {
	key := searchable(ev.Type)
	if key == "" || len(q.Keys) > 0 && !slices.Contains(q.Keys, "content."+key) {
		return ""
	}
	var content map[string]json.RawMessage
	var text string
	if json.Unmarshal(ev.Content, &content) != nil || json.Unmarshal(content[key], &text) != nil {
		return ""
	}
	return text[:min(len(text), maxTextSize)]
}

func (q *Search) sort(found []match) {
	slices.SortStableFunc(found, func(a, b match) int {
		if q.Recent || a.rank == b.rank {
			return cmp.Compare(b.ev.Position, a.ev.Position)
		}
		return cmp.Compare(b.rank, a.rank)
	})
}

// page is one page of results while it is made.
type page struct {
	*Search
	tx     *store.Tx
	reader Reader
	views  map[id.RoomID]*View
	around int // how many bytes may still stand around results
	left   int // how many results are still without what stands around them
	budget Budget
}

// view is the reader's look at a room.
func (p *page) view(room id.RoomID) (*View, error) {
	if p.views[room] == nil {
		v, err := find(p.tx, room, p.reader)
		if err != nil || v == nil {
			return nil, errors.Join(err, ErrNotFound)
		}
		v.budget = &p.budget
		p.views[room] = v
	}
	return p.views[room], nil
}

// results encodes what was found, the events of each room together.
func (p *page) results(found []match) ([]Result, error) {
	byRoom := map[id.RoomID][]int{}
	for i, m := range found {
		byRoom[m.room] = append(byRoom[m.room], i)
	}
	out := make([]Result, len(found))
	for room, indexes := range byRoom {
		v, err := p.view(room)
		if err != nil {
			return nil, err
		}
		events := make([]*store.Event, len(indexes))
		for i, at := range indexes {
			events[i] = found[at].ev
		}
		forms, err := v.Form(events)
		if err != nil {
			return nil, err
		}
		for i, at := range indexes {
			out[at] = Result{Rank: found[at].rank, Event: forms[i]}
			if p.Context == nil {
				continue
			}
			if out[at].Context, err = p.contextOf(v, events[i]); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// contextOf reads what stands around a result: as much as is this one's share of what fits.
func (p *page) contextOf(v *View, ev *store.Event) (*ResultContext, error) {
	share, stretches := p.around/p.left/2, 2*p.left
	if p.Context.Profiles {
		stretches = 3 * p.left // their member events are looked at as well
	}
	p.left--
	pass, limit := passes(v.room.ID, nil), func(n int) int {
		if share == 0 {
			return 0
		}
		return min(n, maxResults)
	}
	back := &reading{backwards: true, cursor: ev.Position - 1, edge: first, limit: limit(p.Context.Before), most: share, stretches: stretches, pass: pass}
	ahead := &reading{cursor: ev.Position, edge: v.upto, limit: limit(p.Context.After), most: share, stretches: stretches - 1, pass: pass}
	out := &ResultContext{}
	for _, side := range []struct {
		at   *reading
		into *[]json.RawMessage
	}{{back, &out.Before}, {ahead, &out.After}} {
		if err := v.read(side.at); err != nil {
			return nil, err
		}
		forms, err := v.Form(side.at.events)
		if err != nil {
			return nil, err
		}
		*side.into = list(forms)
		p.take(forms...)
	}
	out.Start, out.End = v.tx.Token(back.cursor), v.tx.Token(ahead.cursor)
	if !p.Context.Profiles {
		return out, nil
	}
	var err error
	out.Profiles, err = p.profiles(v, slices.Concat(back.events, ahead.events, []*store.Event{ev}), stretches-2)
	return out, err
}

// take counts what stands around results.
func (p *page) take(forms ...json.RawMessage) {
	for _, raw := range forms {
		p.around = max(p.around-len(raw), 0)
	}
}

// profiles are how the senders of events were shown at the time, with the last event of each; no more than there is room for.
// They are one of so many stretches that are still to be read.
func (p *page) profiles(v *View, events []*store.Event, stretches int) (map[id.UserID]Profile, error) {
	out, last := map[id.UserID]Profile{}, map[id.UserID]store.EventNID{}
	for _, ev := range slices.Backward(events) {
		if _, known := last[ev.Sender]; known {
			continue
		}
		nid, err := v.senderOf(ev)
		if err != nil {
			return nil, err
		}
		last[ev.Sender] = nid
	}
	nids := slices.DeleteFunc(slices.Sorted(maps.Values(last)), func(n store.EventNID) bool { return n == 0 })
	members, err := v.within(nids, stretches)
	if err != nil {
		return nil, err
	}
	for _, ev := range members {
		if p.around == 0 {
			break
		}
		profile := Profile(memberOf(ev))
		out[id.UserID(*ev.StateKey)] = profile
		p.take(profile.DisplayName, profile.AvatarURL)
	}
	return out, nil
}

// within reads the first of some events, as many as fit into one of so many stretches that are still to be read.
func (v *View) within(nids []store.EventNID, stretches int) ([]*store.Event, error) {
	sizes, err := v.tx.Events.Sizes(nids)
	if err != nil {
		return nil, err
	}
	n := 0
	for events, size := v.budget.share(stretches); n < len(nids) && n < events && size > 0; n++ {
		size -= sizes[nids[n]].Event
		v.budget.look(1, sizes[nids[n]].Event)
	}
	return v.tx.Events.ByNID(nids[:n]...)
}

// groups sorts a page of results by what the client asked for.
func (q *Search) groups(found []match) map[string]map[string]*ResultsOfGroup {
	var out map[string]map[string]*ResultsOfGroup
	for _, key := range q.GroupBy {
		groups := map[string]*ResultsOfGroup{}
		for _, m := range found {
			name := string(m.ev.Sender)
			if key == "room_id" {
				name = string(m.room)
			}
			if groups[name] == nil {
				groups[name] = &ResultsOfGroup{Order: len(groups) + 1}
			}
			groups[name].Results = append(groups[name].Results, m.ev.ID)
		}
		if out == nil {
			out = map[string]map[string]*ResultsOfGroup{}
		}
		out[key] = groups
	}
	return out
}

// states encodes the states of the rooms in which something was found, if the client asked for them.
func (p *page) states(found []match) (map[id.RoomID][]json.RawMessage, error) {
	if !p.IncludeState {
		return nil, nil
	}
	out, left, entries, asked := map[id.RoomID][]json.RawMessage{}, maxStateSize, maxStateEntries, map[id.RoomID]bool{}
	for _, m := range found {
		if asked[m.room] {
			continue
		}
		asked[m.room] = true
		v, err := p.view(m.room)
		if err != nil {
			return nil, err
		}
		n := v.state.Len()
		if n*leastStateSize > left || n > entries {
			continue
		}
		entries -= n
		events, size, err := v.stateWithin(left)
		if err != nil {
			return nil, err
		}
		if size > left {
			continue
		}
		left -= size
		forms, err := v.formState(events)
		if err != nil {
			return nil, err
		}
		out[m.room] = list(forms)
	}
	return out, nil
}

// stateWithin reads the state of the room if it has no more bytes than that. One that has more is not read.
func (v *View) stateWithin(size int) ([]*store.Event, int, error) {
	nids := make([]store.EventNID, 0, v.state.Len())
	for _, nid := range v.state.All {
		nids = append(nids, nid)
	}
	slices.Sort(nids)
	found := 0
	for chunk := range slices.Chunk(nids, 500) {
		sizes, err := v.tx.Events.Sizes(chunk)
		if err != nil {
			return nil, 0, err
		}
		for _, n := range sizes {
			found += n.Event + n.Redaction
		}
		if found > size {
			return nil, found, nil
		}
	}
	events, err := v.tx.Events.ByNID(nids...)
	return events, found, err
}
