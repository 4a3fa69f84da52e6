package timeline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxBundled is how many events deep aggregations are put into each other: an edit of a thread's newest event.
	maxBundled = 1
	// maxReferences is how many references are bundled with a page of events. maxReferencesSize bounds the events that refer,
	// which are looked at for an answer, in bytes: /relations has the rest. They are read referencesAtOnce.
	maxReferences     = 1000
	maxReferencesSize = 4 << 20
	referencesAtOnce  = 50
	// maxIgnored bounds whose answers in threads are left out of account, maxIgnoredAnswers these users by the threads of an
	// answer. maxLastAnswers bounds the newest answers that are looked at for one by somebody else, in all threads together,
	// or leastLastAnswers of each.
	maxIgnored        = 2000
	maxIgnoredAnswers = 20_000
	maxLastAnswers    = 2000
	leastLastAnswers  = 5
	// maxEdits is how many edits of one event, the newest that came, are looked at for the one that counts.
	maxEdits = 10
	// maxEditsSize bounds the edits that are looked at for an answer, in bytes; they are read editsAtOnce.
	maxEditsSize = 16 << 20
	editsAtOnce  = 50
	// maxBundles bounds the events that are bundled in an answer, in bytes: beyond, nothing is bundled with the rest. They are
	// read bundledAtOnce.
	maxBundles    = 4 << 20
	bundledAtOnce = 20
)

// Budget is what was spent on one answer: the bytes of what relates to its events, and what was looked at in search of them.
// Its zero value has spent nothing.
type Budget struct {
	edits, bundles, references int
	events, size               int // that were looked at, and how many bytes they have
}

// share is how many events and bytes one of so many stretches that are still to be read for the answer may look at.
func (b *Budget) share(stretches int) (events, size int) {
	n := max(stretches, 1)
	return min(scanned, (maxScans-b.events)/n), min(scannedSize, (maxScansSize-b.size)/n)
}

// look counts what was looked at.
func (b *Budget) look(events, size int) {
	b.events += events
	b.size += size
}

// summary is what relates to one event.
type summary struct {
	edit         stream.Position // 0: not edited
	threadLast   stream.Position
	threadCount  int64
	participated bool
	references   []reference
}

type reference struct {
	EventID id.EventID `json:"event_id"`
}

// aggregate bundles with events what relates to them (Client-Server API, "Aggregations of child events"): edits,
// threads, references. State events have none, and redacted ones no edits.
func (v *View) aggregate(events []*store.Event, how style) (map[id.EventID]map[string]json.RawMessage, error) {
	if how.depth > maxBundled {
		return nil, nil
	}
	parents, groups, err := related(v.tx, v.room.NID, events)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	sums, err := v.sumUp(groups, parents)
	if err != nil {
		return nil, err
	}
	return v.encodeSums(sums, events, how)
}

// related finds what relates to events of one room, and to which of them something may.
func related(tx *store.Tx, room store.RoomNID, events []*store.Event) (map[id.EventID]*store.Event, []store.RelationGroup, error) {
	parents := make(map[id.EventID]*store.Event, len(events))
	var ids []id.EventID
	for _, ev := range events {
		if ev.StateKey == nil && parents[ev.ID] == nil {
			parents[ev.ID] = ev
			ids = append(ids, ev.ID)
		}
	}
	groups, err := tx.Relations.Groups(room, ids)
	return parents, groups, err
}

// Bundle finds what is bundled with events of one room as "m.relations", for answers that write the events
// themselves and sort them by room. Where nothing relates to any of them, it costs one query. Budget is that of the answer.
func Bundle(tx *store.Tx, name id.RoomID, room store.RoomNID, r Reader, budget *Budget, events []*store.Event) (map[id.EventID]json.RawMessage, error) {
	_, groups, err := related(tx, room, events)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	v, err := find(tx, name, r)
	if err != nil || v == nil {
		return nil, err
	}
	v.budget = budget
	bundles, err := v.aggregate(events, style{noRoom: true})
	if err != nil {
		return nil, err
	}
	out := make(map[id.EventID]json.RawMessage, len(bundles))
	for event, bundle := range bundles {
		if out[event], err = json.Marshal(bundle); err != nil {
			return nil, fmt.Errorf("encode what relates to %s: %w", event, err)
		}
	}
	return out, nil
}

// sumUp brings together what was done to each event.
func (v *View) sumUp(groups []store.RelationGroup, parents map[id.EventID]*store.Event) (map[id.EventID]*summary, error) {
	sums := map[id.EventID]*summary{}
	var referred, threads []id.EventID
	var edited []store.Relation
	for _, g := range groups {
		s, parent := sums[g.Parent], parents[g.Parent]
		if s == nil {
			s = &summary{}
			sums[g.Parent] = s
		}
		switch g.RelType {
		case "m.replace":
			if ignored, err := v.ignores(parent.Sender); err != nil {
				return nil, err
			} else if !ignored && editable(parent) {
				edited = append(edited, store.Relation{Parent: g.Parent, RelType: g.RelType, Type: parent.Type, Sender: parent.Sender})
			}
		case "m.thread":
			s.threadCount, s.threadLast, s.participated = g.Count, g.Last, parent.Sender == v.reader.User
			threads = append(threads, g.Parent)
		case "m.reference":
			referred = append(referred, g.Parent)
		}
	}
	if err := v.addThreads(sums, threads); err != nil {
		return nil, err
	}
	if err := v.addEdits(sums, edited); err != nil {
		return nil, err
	}
	return sums, v.addReferences(sums, referred)
}

// addThreads finds in which threads the reader took part, and leaves the answers of users that the reader ignores out of
// account. Of a thread whose newest answers that are looked at are all by these nothing is told.
func (v *View) addThreads(sums map[id.EventID]*summary, roots []id.EventID) error {
	if len(roots) == 0 {
		return nil
	}
	if _, err := v.ignores(v.reader.User); err != nil { // and knows whom
		return err
	}
	users := slices.Sorted(maps.Keys(v.ignored))
	users = slices.DeleteFunc(users, func(u id.UserID) bool { return u == v.reader.User })
	users = append(users[:min(len(users), maxIgnored, maxIgnoredAnswers/len(roots))], v.reader.User)
	answered, err := v.tx.Relations.Answered(v.room.NID, roots, users)
	if err != nil {
		return err
	}
	without := map[id.EventID]bool{}
	for _, a := range answered {
		s := sums[a.Root]
		if a.Sender == v.reader.User {
			s.participated = true
			continue
		}
		s.threadCount -= a.Count
		without[a.Root] = true
	}
	if len(without) == 0 {
		return nil
	}
	last, err := v.tx.Relations.LastAnswers(v.room.NID, slices.Sorted(maps.Keys(without)), max(maxLastAnswers/len(without), leastLastAnswers))
	if err != nil {
		return err
	}
	found := map[id.EventID]bool{}
	for _, r := range last {
		if !found[r.Parent] && (r.Sender == v.reader.User || !v.ignored[r.Sender]) {
			found[r.Parent], sums[r.Parent].threadLast = true, r.Position
		}
	}
	for root := range without {
		if !found[root] {
			sums[root].threadCount = 0
		}
	}
	return nil
}

// editable says whether an event can be replaced by others: only who wrote it may do so, and not by one of another type
// (Client-Server API, "Validity of replacement events"), but that is for the caller to see.
func editable(ev *store.Event) bool {
	relType, _ := canonicaljson.String(canonicaljson.Get(canonicaljson.Get(ev.Content, "m.relates_to"), "rel_type"))
	return ev.RedactedBy == 0 && relType != "m.replace"
}

const typeEncrypted = "m.room.encrypted"

// replaces says whether an event has what replaces another one's content; of an encrypted one only readers with the key
// can tell.
func replaces(ev *store.Event) bool {
	return ev.Type == typeEncrypted || bytes.HasPrefix(canonicaljson.Get(ev.Content, "m.new_content"), []byte("{"))
}

// addEdits finds the most recent valid edit of events: by origin_server_ts, then by the ID. Of an event whose edits are not
// all looked at, since the answer's budget is spent, none is taken.
func (v *View) addEdits(sums map[id.EventID]*summary, edited []store.Relation) error {
	edits, err := v.tx.Relations.Newest(v.room.NID, edited, maxEdits)
	if err != nil {
		return err
	}
	slices.SortStableFunc(edits, func(a, b store.Relation) int { return cmp.Compare(a.Parent, b.Parent) })
	parents := make(map[store.EventNID]id.EventID, len(edits))
	newest := make(map[id.EventID]version, len(edited))
	for len(edits) > 0 && v.budget.edits < maxEditsSize {
		n := min(editsAtOnce, len(edits))
		for n < len(edits) && edits[n].Parent == edits[n-1].Parent {
			n++
		}
		nids := make([]store.EventNID, n)
		for i, e := range edits[:n] {
			nids[i], parents[e.Event] = e.Event, e.Parent
		}
		edits = edits[n:]
		events, err := v.tx.Events.ByNID(nids...)
		if err != nil {
			return err
		}
		for _, ev := range events {
			v.budget.edits += len(ev.JSON)
			parent, this := parents[ev.NID], version{ev.OriginServerTS, ev.ID}
			if n, other := newest[parent]; !replaces(ev) || other && this.before(n) {
				continue
			}
			seen, err := v.see(ev)
			if err != nil {
				return err
			}
			if seen != nil {
				newest[parent], sums[parent].edit = this, ev.Position
			}
		}
	}
	return nil
}

// version is what edits are ordered by.
type version struct {
	at int64
	id id.EventID
}

func (a version) before(b version) bool {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) < 0
}

// addReferences lists the events that refer to others, the oldest first, as long as the answer's budget lasts.
func (v *View) addReferences(sums map[id.EventID]*summary, referred []id.EventID) error {
	if v.budget.references >= maxReferencesSize {
		return nil
	}
	references, err := v.tx.Relations.ChildrenOf(v.room.NID, referred, "m.reference", "", maxReferences)
	if err != nil {
		return err
	}
	slices.SortFunc(references, func(a, b store.NamedRelation) int { return cmp.Compare(a.Position, b.Position) })
	for some := range slices.Chunk(references, referencesAtOnce) {
		if v.budget.references >= maxReferencesSize {
			break
		}
		nids, parents := make([]store.EventNID, len(some)), make(map[store.EventNID]id.EventID, len(some))
		for i, r := range some {
			nids[i], parents[r.Event] = r.Event, r.Parent
		}
		events, err := v.tx.Events.ByNID(nids...)
		if err != nil {
			return err
		}
		for _, ev := range events {
			v.budget.references += len(ev.JSON)
			seen, err := v.see(ev)
			if err != nil {
				return err
			}
			if seen != nil {
				s := sums[parents[ev.NID]]
				s.references = append(s.references, reference{ev.ID})
			}
		}
	}
	return nil
}

// encodeSums encodes what relates to each event, with the events in it: first what the events say now, then threads.
func (v *View) encodeSums(sums map[id.EventID]*summary, events []*store.Event, how style) (map[id.EventID]map[string]json.RawMessage, error) {
	var positions, threads []stream.Position
	for _, ev := range events {
		s := sums[ev.ID]
		if s == nil {
			continue
		}
		if s.edit != 0 {
			positions = append(positions, s.edit)
		}
		if s.threadCount > 0 && how.depth == 0 {
			threads = append(threads, s.threadLast)
		}
	}
	positions = append(positions, threads...)
	bundled, err := v.bundled(positions, how)
	if err != nil {
		return nil, err
	}
	out := make(map[id.EventID]map[string]json.RawMessage, len(sums))
	for parent, s := range sums {
		m := map[string]json.RawMessage{}
		if raw := bundled[s.edit]; s.edit != 0 && raw != nil {
			m["m.replace"] = raw
		}
		if raw := bundled[s.threadLast]; s.threadCount > 0 && raw != nil && how.depth == 0 {
			m["m.thread"], err = json.Marshal(map[string]any{
				"latest_event": raw, "count": s.threadCount, "current_user_participated": s.participated,
			})
		}
		if len(s.references) > 0 && err == nil {
			m["m.reference"], err = json.Marshal(map[string]any{"chunk": s.references})
		}
		if err != nil {
			return nil, fmt.Errorf("encode what relates to %s: %w", parent, err)
		}
		if len(m) > 0 {
			out[parent] = m
		}
	}
	return out, nil
}

// bundled encodes the events at some positions that the reader may see, until it is enough.
func (v *View) bundled(positions []stream.Position, how style) (map[stream.Position]json.RawMessage, error) {
	how.depth++
	out := make(map[stream.Position]json.RawMessage, len(positions))
	for chunk := range slices.Chunk(positions, bundledAtOnce) {
		if v.budget.bundles > maxBundles {
			break
		}
		events, err := v.tx.Events.At(v.room.NID, chunk)
		if err != nil {
			return nil, err
		}
		if events, err = v.See(events); err != nil {
			return nil, err
		}
		forms, err := v.form(events, how)
		if err != nil {
			return nil, err
		}
		for i, ev := range events {
			out[ev.Position] = forms[i]
			v.budget.bundles += len(forms[i])
		}
	}
	return out, nil
}
