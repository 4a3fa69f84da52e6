package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxSearched is how many events are looked at for one search, in all rooms together.
	maxSearched = 20_000
	// searchBatch is how many events are read at once.
	searchBatch = 500
	// maxFound is how many of them may match; the rest is not counted.
	maxFound = 2000
	// maxResults is how many results are returned at once.
	maxResults = 100
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
	view *View
	ev   *store.Event
	rank float64
}

// Search finds events in the rooms that the reader is or was in (POST /search). It looks at a bounded number of the
// newest events. What is encrypted cannot be found. Error: ErrBadRequest.
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
	limit := q.Filter.Count(DefaultLimit, maxResults)
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		found, err := q.find(tx, r, words)
		if err != nil {
			return err
		}
		q.sort(found)
		out.Count = len(found)
		found = found[min(skip, len(found)):]
		if limit > 0 && len(found) >= limit {
			found, out.Next = found[:limit], "o"+strconv.Itoa(skip+limit)
		}
		if out.Results, err = q.results(found); err != nil {
			return err
		}
		out.Groups = q.groups(found)
		out.State, err = q.states(found)
		return err
	})
	return out, err
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

// find looks through the reader's rooms, each to an equal share of what is looked at.
func (q *Search) find(tx *store.Tx, r Reader, words []string) ([]match, error) {
	memberships, err := tx.Memberships.ByUser(r.User, "join", "leave", "ban")
	if err != nil {
		return nil, err
	}
	memberships = slices.DeleteFunc(memberships, func(m store.Membership) bool {
		return m.Forgotten || !q.Filter.AllowsRoom(m.RoomID)
	})
	var out []match
	for _, m := range memberships {
		v, err := find(tx, m.RoomID, r)
		if err != nil {
			return nil, err
		}
		if v == nil || !v.inside {
			continue
		}
		if out, err = q.findIn(v, words, max(maxSearched/len(memberships), searchBatch), out); err != nil || len(out) >= maxFound {
			return out, err
		}
	}
	return out, nil
}

func (q *Search) findIn(v *View, words []string, budget int, out []match) ([]match, error) {
	pass := passes(v.room.ID, q.Filter)
	for upto, looked := v.upto, 0; looked < budget; looked += searchBatch {
		batch, err := v.tx.Events.Range(v.room.NID, first, upto, searchBatch, true)
		if err != nil {
			return nil, err
		}
		for _, ev := range batch {
			rank := rankOf(q.text(ev), words)
			if rank == 0 || !pass(ev) {
				continue
			}
			seen, err := v.see(ev)
			if err != nil {
				return nil, err
			}
			if seen == ev {
				if out = append(out, match{v, ev, rank}); len(out) >= maxFound {
					return out, nil
				}
			}
		}
		if len(batch) < searchBatch {
			break
		}
		upto = batch[len(batch)-1].Position - 1
	}
	return out, nil
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
	return text
}

func (q *Search) sort(found []match) {
	slices.SortStableFunc(found, func(a, b match) int {
		if q.Recent || a.rank == b.rank {
			return cmp.Compare(b.ev.Position, a.ev.Position)
		}
		return cmp.Compare(b.rank, a.rank)
	})
}

// results encodes what was found, the events of each room together.
func (q *Search) results(found []match) ([]Result, error) {
	byView := map[*View][]int{}
	for i, m := range found {
		byView[m.view] = append(byView[m.view], i)
	}
	out := make([]Result, len(found))
	for v, indexes := range byView {
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
			if q.Context == nil {
				continue
			}
			if out[at].Context, err = q.Context.of(v, events[i]); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (c *SearchContext) of(v *View, ev *store.Event) (*ResultContext, error) {
	pass := passes(v.room.ID, nil)
	back := &reading{backwards: true, cursor: ev.Position - 1, edge: first, limit: min(c.Before, maxResults), pass: pass}
	ahead := &reading{cursor: ev.Position, edge: v.upto, limit: min(c.After, maxResults), pass: pass}
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
	}
	out.Start, out.End = token(back.cursor), token(ahead.cursor)
	if !c.Profiles {
		return out, nil
	}
	out.Profiles = map[id.UserID]Profile{}
	for _, shown := range slices.Concat(back.events, ahead.events, []*store.Event{ev}) {
		state, err := v.tx.States.Map(shown.StateBefore)
		if err != nil {
			return nil, err
		}
		member, err := v.tx.States.Event(state, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(shown.Sender)})
		if err != nil {
			return nil, err
		}
		if member != nil {
			out.Profiles[shown.Sender] = Profile(memberOf(member))
		}
	}
	return out, nil
}

// groups sorts a page of results by what the client asked for.
func (q *Search) groups(found []match) map[string]map[string]*ResultsOfGroup {
	var out map[string]map[string]*ResultsOfGroup
	for _, key := range q.GroupBy {
		groups := map[string]*ResultsOfGroup{}
		for _, m := range found {
			name := string(m.ev.Sender)
			if key == "room_id" {
				name = string(m.view.room.ID)
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
func (q *Search) states(found []match) (map[id.RoomID][]json.RawMessage, error) {
	if !q.IncludeState {
		return nil, nil
	}
	out := map[id.RoomID][]json.RawMessage{}
	for _, m := range found {
		if out[m.view.room.ID] != nil {
			continue
		}
		events, err := m.view.stateEvents(m.view.state, everything)
		if err != nil {
			return nil, err
		}
		forms, err := m.view.formState(events)
		if err != nil {
			return nil, err
		}
		out[m.view.room.ID] = list(forms)
	}
	return out, nil
}
