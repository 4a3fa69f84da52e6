package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// transferred is the state that the new room begins with too. Bans and, of spaces, children are as well.
var transferred = []string{
	event.TypeJoinRules, event.TypeHistoryVisibility, "m.room.guest_access", "m.room.encryption", "m.room.server_acl",
	"m.room.name", "m.room.topic", "m.room.avatar",
}

// foundations are the state from which other state of the new room is made.
var foundations = []string{event.TypeCreate, event.TypePowerLevels, typeCanonicalAlias}

func isSetting(t event.StateKeyTuple) bool {
	return t.StateKey == "" && (slices.Contains(transferred, t.Type) || slices.Contains(foundations, t.Type))
}

const (
	// maxTransferred is how many bans, and how many children of a space, are transferred.
	maxTransferred = 1000
	// maxTransferredSize bounds the bans that are looked at in bytes, and the children: while they are written, in one
	// transaction, all others who write wait. They are read transferredAtOnce.
	maxTransferredSize = 2 << 20
	transferredAtOnce  = 50
)

// transferable reads the state of the old room that the new one is made of. The room waits for it.
func (d *draft) transferable(ctx context.Context) (map[event.StateKeyTuple]*store.Event, error) {
	out := map[event.StateKeyTuple]*store.Event{}
	keys := make([]int64, 0, d.state.Map.Len())
	for k := range d.state.Map.All {
		keys = append(keys, k)
	}
	left := false
	err := d.e.Store.View(ctx, func(tx *store.Tx) error {
		tuples, err := tx.States.Tuples(keys)
		if err != nil {
			return err
		}
		banned, err := tx.Memberships.Users(d.room.NID, "ban")
		if err != nil {
			return err
		}
		isBanned := make(map[id.UserID]bool, len(banned))
		for _, user := range banned {
			isBanned[user] = true
		}
		var bans, children, rest []store.EventNID
		for _, k := range slices.SortedFunc(maps.Keys(tuples), func(a, b int64) int { return strings.Compare(tuples[a].StateKey, tuples[b].StateKey) }) {
			switch t, nid := tuples[k], d.state.Map.Get(k); {
			case t.Type == event.TypeMember && isBanned[id.UserID(t.StateKey)]:
				bans = append(bans, nid)
			case t.Type == typeSpaceChild:
				children = append(children, nid)
			case isSetting(t):
				rest = append(rest, nid)
			}
		}
		events, err := tx.Events.ByNID(rest...)
		for _, ev := range events {
			out[ev.Tuple()] = ev
		}
		for _, some := range [][]store.EventNID{bans, children} {
			whole, err := readTransferred(tx, out, some)
			if err != nil {
				return err
			}
			left = left || !whole
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the room to upgrade: %w", err)
	}
	if left {
		d.warnOfLeft()
	}
	// What is not committed yet is known here only.
	for t, ev := range d.known {
		if ev != nil && (t.Type == event.TypeMember || t.Type == typeSpaceChild || isSetting(t)) {
			out[t] = ev
		}
	}
	maps.DeleteFunc(out, func(_ event.StateKeyTuple, ev *store.Event) bool {
		return ev.Type == event.TypeMember && ev.Membership() != "ban"
	})
	return out, nil
}

// readTransferred reads those of some events that are transferred, as many as may be, and says whether these are all.
func readTransferred(tx *store.Tx, out map[event.StateKeyTuple]*store.Event, nids []store.EventNID) (whole bool, err error) {
	n, size := 0, 0
	for some := range slices.Chunk(nids, transferredAtOnce) {
		events, err := tx.Events.ByNID(some...)
		if err != nil {
			return false, err
		}
		for _, ev := range events {
			if size += len(ev.JSON); n == maxTransferred || size > maxTransferredSize {
				return false, nil
			}
			if transferredContent(ev) != nil {
				out[ev.Tuple()] = ev
				n++
			}
		}
	}
	return true, nil
}

// successor lists the events that the new room begins with. The power levels come last: until then its creator may
// set everything.
func (d *draft) successor(v *event.Version, u Upgrade, state map[event.StateKeyTuple]*store.Event) ([]event.Proto, error) {
	var list []event.Proto
	add := func(typ, key string, content any) error {
		raw, err := json.Marshal(content)
		list = append(list, event.Proto{Type: typ, StateKey: &key, Sender: u.User, Content: raw})
		return err
	}
	create, creators, err := d.createContent(v, u, state[event.StateKeyTuple{Type: event.TypeCreate}])
	if err != nil {
		return nil, err
	}
	errs := []error{add(event.TypeCreate, "", create), add(event.TypeMember, string(u.User), u.Profile.content("join"))}
	for _, typ := range transferred {
		if ev := state[event.StateKeyTuple{Type: typ}]; ev != nil {
			content := ev.Content
			if typ == event.TypeJoinRules {
				content = joinRulesFor(v, content)
			}
			errs = append(errs, add(typ, "", content))
		}
	}
	if _, moved := d.splitAliases(state[event.StateKeyTuple{Type: typeCanonicalAlias}]); moved != nil {
		errs = append(errs, add(typeCanonicalAlias, "", moved))
	}
	for _, typ := range []string{typeSpaceChild, event.TypeMember} {
		n, size := 0, 0
		for _, t := range slices.SortedFunc(maps.Keys(state), func(a, b event.StateKeyTuple) int { return strings.Compare(a.StateKey, b.StateKey) }) {
			if t.Type != typ || slices.Contains(creators, id.UserID(t.StateKey)) {
				continue
			}
			content := transferredContent(state[t])
			if content == nil {
				continue
			}
			if size += len(state[t].Content); n == maxTransferred || size > maxTransferredSize {
				d.warnOfLeft()
				break
			}
			errs = append(errs, add(typ, t.StateKey, content))
			n++
		}
	}
	levels, err := d.levelsFor(v, u.User, creators, state[event.StateKeyTuple{Type: event.TypePowerLevels}])
	return list, errors.Join(append(errs, err, add(event.TypePowerLevels, "", levels))...)
}

func (d *draft) warnOfLeft() {
	d.e.Log.Warn("too many bans or children for the room's replacement to have them all", "room", d.room.ID)
}

// transferredContent is that of a ban or of a space's child in the new room; nil if it is not transferred.
func transferredContent(ev *store.Event) map[string]json.RawMessage {
	var content map[string]json.RawMessage
	if json.Unmarshal(ev.Content, &content) != nil {
		return nil
	}
	if ev.Type == event.TypeMember {
		out := map[string]json.RawMessage{"membership": content["membership"]}
		if reason, ok := content["reason"]; ok {
			out["reason"] = reason
		}
		return out
	}
	if content["via"] == nil {
		return nil // it is a child no longer
	}
	return content
}

// createContent is that of the new room's m.room.create, with the creators that stand above all power levels.
func (d *draft) createContent(v *event.Version, u Upgrade, old *store.Event) (map[string]json.RawMessage, []id.UserID, error) {
	var former map[string]json.RawMessage
	if old == nil || json.Unmarshal(old.Content, &former) != nil {
		return nil, nil, fmt.Errorf("%w: the room has no m.room.create that can be read", ErrBadRequest)
	}
	predecessor := map[string]any{"room_id": d.room.ID}
	if x := d.head.Extremities; !v.RoomIDIsCreateHash && len(x) > 0 {
		predecessor["event_id"] = x[len(x)-1].ID
	}
	create := map[string]json.RawMessage{}
	// What can't be read counts as not given, in the old room too.
	if raw := former["type"]; isText(raw) {
		create["type"] = raw
	}
	if federate, err := federates(former); err == nil && !federate {
		create["m.federate"] = json.RawMessage("false")
	}
	members := map[string]any{"room_version": v.ID, "predecessor": predecessor}
	if !v.UseCreateSender {
		members["creator"] = u.User
	}
	if v.PrivilegedCreators && len(u.AdditionalCreators) > 0 {
		members["additional_creators"] = u.AdditionalCreators
	}
	for key, value := range members {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, nil, err
		}
		create[key] = raw
	}
	if !v.PrivilegedCreators {
		return create, nil, nil
	}
	err := (&Creation{Creator: u.User}).addCreators(v, create)
	return create, append([]id.UserID{u.User}, u.AdditionalCreators...), err
}

// joinRulesFor replaces a join rule that the version does not know by the strictest.
func joinRulesFor(v *event.Version, content json.RawMessage) json.RawMessage {
	rule, _ := canonicaljson.String(canonicaljson.Get(content, "join_rule"))
	known := map[string]bool{"knock": v.Knock, "restricted": v.RestrictedJoin, "knock_restricted": v.KnockRestricted}
	// A rule that can't be read lets nobody in, in the new room as in the old one.
	if ok, special := known[rule]; special && !ok {
		return json.RawMessage(`{"join_rule":"invite"}`)
	}
	return content
}

// levelsFor are the power levels of the new room: those of the old one, except that creators have none where they
// stand above all, and need one where they no longer do.
func (d *draft) levelsFor(v *event.Version, user id.UserID, creators []id.UserID, old *store.Event) (map[string]json.RawMessage, error) {
	var levels map[string]json.RawMessage
	if old == nil || json.Unmarshal(old.Content, &levels) != nil || levels == nil {
		return (&Creation{Creator: user, Preset: "private_chat"}).powerLevels(v)
	}
	for key, raw := range levels {
		if key != "events" && key != "users" && key != "notifications" {
			levels[key] = wholeLevel(v, raw)
		}
	}
	parts := map[string]map[string]json.RawMessage{}
	for _, key := range []string{"users", "events", "notifications"} {
		var part map[string]json.RawMessage
		if raw, ok := levels[key]; !ok || json.Unmarshal(raw, &part) != nil || part == nil {
			part = map[string]json.RawMessage{}
		}
		for k, raw := range part {
			part[k] = wholeLevel(v, raw)
		}
		parts[key] = part
	}
	now := d.auth.Levels()
	switch {
	case v.PrivilegedCreators:
		for _, c := range creators {
			delete(parts["users"], string(c))
		}
		// Client-Server API, POST /createRoom: a tombstone needs more than other state. What was right where
		// administrators stood highest is for the creators alone now, unless somebody is raised to it.
		state, tombstone := now.Event("", true), now.Event(typeTombstone, true)
		if !d.room.Version.PrivilegedCreators || tombstone <= state {
			parts["events"][typeTombstone] = strconv.AppendInt(nil, max(usualTombstone, state+1, tombstone), 10)
		}
	case d.room.Version.PrivilegedCreators:
		if d.auth.UserLevel(user) == eventauth.CreatorLevel {
			highest := max(100, now.Event("", true), now.Event(typeTombstone, true), now.Event(event.TypePowerLevels, true))
			parts["users"][string(user)] = strconv.AppendInt(nil, highest, 10)
		}
	}
	for key, part := range parts {
		if _, given := levels[key]; !given && len(part) == 0 {
			continue
		}
		raw, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		levels[key] = raw
	}
	return levels, nil
}

// maxLevel is the largest integer that JSON can carry between servers.
const maxLevel = 1<<53 - 1

// wholeLevel is a level as an integer if the version asks for it. Older versions allow text and fractions.
func wholeLevel(v *event.Version, raw json.RawMessage) json.RawMessage {
	text := string(raw)
	if !v.IntegerPowerLevels {
		return raw
	}
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(n) {
		return raw // nothing that counts as a level; the rules will say so
	}
	return strconv.AppendInt(nil, int64(math.Trunc(max(-maxLevel, min(maxLevel, n)))), 10)
}

// newcomer is a local user who came into a room that replaces another one.
type newcomer struct {
	user     id.UserID
	from, to id.RoomID
}

// newcomers are those that a draft brings. It is asked under the room's lock.
func (d *draft) newcomers() []newcomer {
	from := predecessor(d.known[event.StateKeyTuple{Type: event.TypeCreate}])
	if from == "" {
		return nil
	}
	out := make([]newcomer, len(d.joined))
	for i, user := range d.joined {
		out[i] = newcomer{user, from, d.room.ID}
	}
	return out
}

// maxEarly is how many users who came into a room before its predecessor was closed get what they had set there.
const maxEarly = 100

// early are the local users who came into a room's successor before the room was closed, as events from different
// rooms come in any order. It is asked after the commit that closed the room.
func (e *Engine) early(ctx context.Context, from id.RoomID) ([]newcomer, error) {
	to, err := e.replacement(ctx, from)
	if err != nil || to == "" {
		return nil, err
	}
	var out []newcomer
	err = e.lookIn(ctx, to, func(d *draft) error {
		if predecessor(d.known[event.StateKeyTuple{Type: event.TypeCreate}]) == from {
			for _, user := range d.local[:min(len(d.local), maxEarly)] {
				out = append(out, newcomer{user, from, to})
			}
		}
		return nil
	})
	return out, err
}

// replacement is the room that an m.room.tombstone says a room is replaced by; empty if it has none, or is not known.
func (e *Engine) replacement(ctx context.Context, roomID id.RoomID) (to id.RoomID, err error) {
	err = e.lookIn(ctx, roomID, func(d *draft) error {
		t := event.StateKeyTuple{Type: typeTombstone}
		state, err := e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
		if err == nil && state[t] != nil {
			to = replacementIn(state[t].Content)
		}
		return err
	})
	return to, err
}

// replacementIn is the room that the content of an m.room.tombstone names; empty if it is no room ID.
func replacementIn(content json.RawMessage) id.RoomID {
	text, _ := canonicaljson.String(canonicaljson.Get(content, "replacement_room"))
	to, err := id.ParseRoomID(text)
	if err != nil {
		return ""
	}
	return to
}

// follow tells of those whom a committed draft brought. That a room replaces another one is for the other one to say:
// only then does it get what belongs to that.
func (e *Engine) follow(ctx context.Context, newcomers []newcomer) {
	if e.Followed == nil {
		return
	}
	for _, n := range newcomers {
		ctx := context.WithoutCancel(ctx)
		to, err := e.replacement(ctx, n.from)
		if err == nil {
			err = e.Followed(ctx, n.user, n.from, n.to, to == n.to)
		}
		if err != nil {
			e.Log.Error("what was set for a room cannot be copied to its successor", "room", n.to, "user", n.user, "err", err)
		}
	}
}

// predecessor is the room that an m.room.create says it replaces; empty if it says none.
func predecessor(create *store.Event) id.RoomID {
	var content struct {
		Predecessor struct {
			RoomID string `json:"room_id"`
		} `json:"predecessor"`
	}
	if create == nil || json.Unmarshal(create.Content, &content) != nil {
		return ""
	}
	from, err := id.ParseRoomID(content.Predecessor.RoomID)
	if err != nil {
		return ""
	}
	return from
}
