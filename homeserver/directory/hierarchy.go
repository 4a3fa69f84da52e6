package directory

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Node is a room with the children that it has if it is a space.
type Node struct {
	Summary
	ChildrenState []json.RawMessage `json:"children_state"` // stripped m.space.child events with their origin_server_ts

	children []child
}

// Level is a room and its children as one server tells another (Server-Server API, GET /hierarchy).
type Level struct {
	Room         Node        `json:"room"`
	Children     []Summary   `json:"children"`
	Inaccessible []id.RoomID `json:"inaccessible_children"`
}

// child is a valid m.space.child.
type child struct {
	room      id.RoomID
	via       []id.ServerName
	order     string // empty: none, which is behind all
	suggested bool
	at        int64
	raw       json.RawMessage
}

const (
	childType = "m.space.child"
	maxOrder  = 50
	// Of a space's children the first ones in order count: so many, and up to so many bytes.
	maxChildren     = 1000
	maxChildrenSize = 1 << 20
	// maxChildrenRead is how many bytes of a space's children are read to find these, the oldest first.
	maxChildrenRead = 16 << 20
	childrenAtOnce  = 50 // events
)

// parseChild reads an m.space.child; false if it names no child.
func parseChild(stateKey string, content json.RawMessage, at int64) (child, bool) {
	c := child{at: at}
	var members map[string]json.RawMessage
	var via []string
	room, err := id.ParseRoomID(stateKey)
	if err != nil || json.Unmarshal(content, &members) != nil || json.Unmarshal(members["via"], &via) != nil || via == nil {
		return c, false
	}
	c.room = room
	for _, v := range via {
		if server, err := id.ParseServerName(v); err == nil && len(c.via) < maxVia {
			c.via = append(c.via, server)
		}
	}
	// Of another type than they should be, both count as not given.
	if json.Unmarshal(members["order"], &c.order) != nil || !validOrder(c.order) {
		c.order = ""
	}
	if json.Unmarshal(members["suggested"], &c.suggested) != nil {
		c.suggested = false
	}
	return c, true
}

func validOrder(s string) bool {
	for _, b := range []byte(s) {
		if b < 0x20 || b > 0x7e {
			return false
		}
	}
	return len(s) <= maxOrder
}

// arrange puts a node's children in order and drops what is not asked for (Client-Server API, "Ordering of children
// within a space").
func (n *Node) arrange(suggestedOnly bool) {
	if n.RoomType != spaceType {
		n.children = nil
	}
	if suggestedOnly {
		n.children = slices.DeleteFunc(n.children, func(c child) bool { return !c.suggested })
	}
	slices.SortFunc(n.children, func(a, b child) int {
		if (a.order == "") != (b.order == "") {
			return cmp.Compare(len(b.order), len(a.order))
		}
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.at, b.at), cmp.Compare(a.room, b.room))
	})
	n.ChildrenState = []json.RawMessage{}
	size := 0
	for i := range n.children[:min(len(n.children), maxChildren)] {
		c := &n.children[i]
		if size += len(c.raw); size > maxChildrenSize {
			break
		}
		n.ChildrenState, c.raw = append(n.ChildrenState, c.raw), nil
	}
	n.children = n.children[:len(n.ChildrenState)]
}

// size is about how many bytes a node takes.
func (n *Node) size() int {
	size := n.Summary.size()
	for _, raw := range n.ChildrenState {
		size += len(raw)
	}
	return size
}

// childrenIn reads the children of a space, within what may still be read.
func childrenIn(tx *store.Tx, room *store.Room, budget *int) ([]child, error) {
	head, err := tx.Rooms.Head(room.NID)
	if err != nil {
		return nil, err
	}
	state, err := tx.States.Map(head.State)
	if err != nil {
		return nil, err
	}
	keys := make([]int64, 0, state.Len())
	for k := range state.All {
		keys = append(keys, k)
	}
	tuples, err := tx.States.Tuples(keys)
	if err != nil {
		return nil, err
	}
	var nids []store.EventNID
	for k, t := range tuples {
		if t.Type == childType {
			nids = append(nids, state.Get(k))
		}
	}
	slices.Sort(nids)
	var out []child
	size := 0
	for some := range slices.Chunk(nids, childrenAtOnce) {
		if size >= min(maxChildrenRead, *budget) {
			break
		}
		events, err := tx.Events.ByNID(some...)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			size += len(ev.JSON)
			if c, ok := parseChild(*ev.StateKey, ev.Content, ev.OriginServerTS); ok {
				c.raw = strippedChild(ev.Event)
				out = append(out, c)
			}
		}
	}
	*budget -= size
	return out, nil
}

func strippedChild(ev *event.Event) json.RawMessage {
	return canonicaljson.With(ev.StrippedJSON(), "origin_server_ts", strconv.AppendInt(nil, ev.OriginServerTS, 10))
}

// toldChild is a stripped m.space.child; other members are not passed on.
type toldChild struct {
	Content  json.RawMessage `json:"content"`
	At       int64           `json:"origin_server_ts"`
	Sender   id.UserID       `json:"sender"`
	StateKey string          `json:"state_key"`
	Type     string          `json:"type"`
}

// UnmarshalJSON reads a node as another server tells it. What is no m.space.child is left out.
func (n *Node) UnmarshalJSON(raw []byte) error {
	var told struct {
		Summary
		Children []json.RawMessage `json:"children_state"`
	}
	if err := json.Unmarshal(raw, &told); err != nil {
		return err
	}
	*n = Node{Summary: told.Summary}
	for _, raw := range told.Children {
		var ev toldChild
		if json.Unmarshal(raw, &ev) != nil || ev.Type != childType || len(raw) > event.MaxSize {
			continue
		}
		c, ok := parseChild(ev.StateKey, ev.Content, ev.At)
		if !ok {
			continue
		}
		var err error
		if c.raw, err = json.Marshal(ev); err != nil {
			return err
		}
		n.children = append(n.children, c)
	}
	return nil
}

// HierarchyFor is one level of a space for another server: those children that are not for it are only named, those
// that this server knows nothing of left out. Error: ErrNoRoom.
func (s *Service) HierarchyFor(ctx context.Context, origin id.ServerName, roomID id.RoomID, suggestedOnly bool) (*Level, error) {
	out := &Level{Children: []Summary{}, Inaccessible: []id.RoomID{}}
	who := visitor{server: origin}
	barred, err := s.barred(ctx, roomID, origin)
	if err != nil {
		return nil, err
	}
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		budget := maxChildrenRead
		n, err := nodeOf(tx, roomID, suggestedOnly, &budget)
		if err != nil {
			return err
		}
		open := n != nil && !barred
		if open {
			open, err = n.openTo(tx, who)
		}
		if err == nil && !open {
			err = fmt.Errorf("%w: %s", ErrNoRoom, roomID)
		}
		if err != nil {
			return err
		}
		out.Room = *n
		return out.addChildren(tx, who)
	})
	if err != nil {
		return nil, err
	}
	// Access lists are read outside of the transaction, since they may have to be loaded.
	for i := 0; i < len(out.Children); i++ {
		r := out.Children[i].RoomID
		barred, err := s.barred(ctx, r, origin)
		if err != nil {
			return nil, err
		}
		if barred {
			out.Inaccessible = append(out.Inaccessible, r)
			out.Children = slices.Delete(out.Children, i, i+1)
			i--
		}
	}
	return out, nil
}

func (s *Service) barred(ctx context.Context, roomID id.RoomID, origin id.ServerName) (bool, error) {
	if s.ServerAllowed == nil {
		return false, nil
	}
	ok, err := s.ServerAllowed(ctx, roomID, origin)
	return !ok, err
}

// maxLevel is about how many bytes a level has; children behind it are left out.
const maxLevel = 4 << 20

func (l *Level) addChildren(tx *store.Tx, who visitor) error {
	size := 0
	for _, c := range l.Room.children {
		n, err := nodeOf(tx, c.room, false, nil)
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		if size += n.Summary.size(); size > maxLevel {
			return nil
		}
		open, err := n.openTo(tx, who)
		if err != nil {
			return err
		}
		if open {
			l.Children = append(l.Children, n.Summary)
		} else {
			l.Inaccessible = append(l.Inaccessible, c.room)
		}
	}
	return nil
}

// HierarchyQuery is what is asked of a space (Client-Server API, GET /hierarchy). What is nil was not given.
type HierarchyQuery struct {
	SuggestedOnly *bool
	MaxDepth      *int
	Limit         int // 0: the usual number
	From          string
}

// HierarchyPage is a part of a space's rooms, depth first.
type HierarchyPage struct {
	Rooms     []*Node `json:"rooms"`
	NextBatch string  `json:"next_batch,omitempty"`
}

const (
	usualHierarchy = 50  // rooms on a page
	maxHierarchy   = 100 // at most
	maxDepth       = 20
	maxWalked      = 2000             // rooms that are looked at for a page
	maxAsked       = 50               // of these, rooms that other servers are asked about
	askingTime     = 30 * time.Second // how long that takes in all; rooms that nobody told of by then are left out
	// Bytes of a page, give or take those of its last room, and of children that are read for it.
	maxHierarchySize = 4 << 20
	maxWalkedSize    = 64 << 20
)

// walk is a depth-first walk through a space for a user.
type walk struct {
	s             *Service
	who           visitor
	suggestedOnly bool
	maxDepth      int
	seen          map[id.RoomID]bool
	asked         int
	until         time.Time // other servers are asked
	budget        int       // bytes of children that may still be read
}

// step is a room to come to.
type step struct {
	child
	depth int
	above *Level // what another server told of the space that the room is in, and of its children; nil if none was asked
}

// Hierarchy reads a part of a space for a user. Errors: ErrForbidden if the space itself is not for the user,
// ErrBadQuery, and those of Preview if no server says anything of the space itself. What is in it is left out then.
func (s *Service) Hierarchy(ctx context.Context, user id.UserID, root id.RoomID, q HierarchyQuery) (*HierarchyPage, error) {
	at, err := q.place()
	if err != nil {
		return nil, err
	}
	w := &walk{
		s: s, who: visitor{user: user}, suggestedOnly: at.suggestedOnly, maxDepth: at.maxDepth, seen: map[id.RoomID]bool{}, budget: maxWalkedSize,
		until: time.Now().Add(askingTime),
	}
	limit := min(q.Limit, maxHierarchy)
	if limit == 0 {
		limit = usualHierarchy
	}
	page, found, size := &HierarchyPage{Rooms: []*Node{}}, 0, 0
	ahead := []step{{child: child{room: root}}}
	for len(ahead) > 0 && len(w.seen) < maxWalked && w.budget > 0 {
		next := ahead[len(ahead)-1]
		if !w.seen[next.room] && (len(page.Rooms) == limit || size >= maxHierarchySize) {
			page.NextBatch = at.token(found)
			break
		}
		ahead = ahead[:len(ahead)-1]
		n, level, err := w.visit(ctx, next)
		if err != nil {
			return nil, err
		}
		if n == nil && next.depth == 0 && next.room == root && found == 0 {
			return nil, fmt.Errorf("%w: %s is no room that you may look into", ErrForbidden, root)
		}
		if n == nil {
			continue
		}
		if found++; found > at.offset {
			page.Rooms = append(page.Rooms, n)
			size += n.size()
		}
		for _, c := range slices.Backward(n.children) {
			if next.depth < w.maxDepth && !w.seen[c.room] {
				ahead = append(ahead, step{c, next.depth + 1, level})
			}
		}
	}
	return page, nil
}

// visit finds the room of a step, and what another server told with it; nil if it was seen before, is not known or not
// for the user.
func (w *walk) visit(ctx context.Context, to step) (n *Node, level *Level, err error) {
	if w.seen[to.room] {
		return nil, nil, nil
	}
	w.seen[to.room] = true
	if n, err = w.s.look(ctx, to.room, w.suggestedOnly, &w.budget); err != nil {
		return nil, nil, err
	}
	if n == nil {
		if to.via == nil {
			if to.via, err = w.s.remembered(ctx, to.room, w.who.user); err != nil {
				return nil, nil, err
			}
		}
		if n, level, err = w.ask(ctx, to); err != nil {
			return nil, nil, err
		}
	}
	if n == nil {
		return nil, nil, nil
	}
	open := false
	err = w.s.Store.View(ctx, func(tx *store.Tx) error {
		open, err = n.openTo(tx, w.who)
		return err
	})
	if err != nil || !open {
		return nil, nil, err
	}
	return n, level, nil
}

// ask finds out from other servers what there is to know of a room; what was told with its parent is enough if it is
// no space itself. What was told with another space says nothing of the room. That nobody could tell is an error where the
// walk begins only.
func (w *walk) ask(ctx context.Context, to step) (*Node, *Level, error) {
	if to.above != nil {
		if told := to.above.child(to.room); told != nil && told.RoomType != spaceType {
			return &Node{Summary: *told, ChildrenState: []json.RawMessage{}}, nil, nil
		}
		if slices.Contains(to.above.Inaccessible, to.room) {
			return nil, nil, nil
		}
	}
	if w.asked >= maxAsked {
		return nil, nil, nil
	}
	w.asked++
	ctx, cancel := context.WithDeadline(ctx, w.until)
	defer cancel()
	level, err := w.s.ask(ctx, to.room, to.via, w.suggestedOnly)
	switch {
	case level != nil:
		return &level.Room, level, nil
	case err != nil && to.depth == 0 && !saysNo(err):
		return nil, nil, err
	default:
		return nil, nil, nil
	}
}

// child is what a level says of a child; nil if it says nothing.
func (l *Level) child(room id.RoomID) *Summary {
	for i := range l.Children {
		if l.Children[i].RoomID == room {
			return &l.Children[i]
		}
	}
	return nil
}

// place is where a page begins and what it is a page of.
type place struct {
	offset        int
	maxDepth      int
	suggestedOnly bool
}

// place reads what is asked for; what was asked for first holds for all pages.
func (q *HierarchyQuery) place() (place, error) {
	p := place{maxDepth: maxDepth}
	if q.From != "" {
		raw, err := base64.RawURLEncoding.DecodeString(q.From)
		if err == nil {
			_, err = fmt.Sscanf(string(raw), "h%d %d %t", &p.offset, &p.maxDepth, &p.suggestedOnly)
		}
		if err != nil || p.offset <= 0 || p.maxDepth < 0 || p.maxDepth > maxDepth || p.token(p.offset) != q.From {
			return p, fmt.Errorf("%w: from is not a token of this server", ErrBadQuery)
		}
		if q.MaxDepth != nil && min(*q.MaxDepth, maxDepth) != p.maxDepth || q.SuggestedOnly != nil && *q.SuggestedOnly != p.suggestedOnly {
			return p, fmt.Errorf("%w: max_depth and suggested_only may not change from page to page", ErrBadQuery)
		}
		return p, nil
	}
	if q.MaxDepth != nil {
		p.maxDepth = min(*q.MaxDepth, maxDepth)
	}
	if q.SuggestedOnly != nil {
		p.suggestedOnly = *q.SuggestedOnly
	}
	return p, nil
}

func (p place) token(offset int) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "h%d %d %t", offset, p.maxDepth, p.suggestedOnly))
}
