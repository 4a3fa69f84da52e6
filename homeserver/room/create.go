package room

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Creation is what a user wants of a new room (Client-Server API, POST /createRoom).
type Creation struct {
	Creator         id.UserID
	Version         id.RoomVersion // empty for the default
	Preset          string         // empty: by Public
	Public          bool           // visibility: the room is listed
	Name, Topic     string
	Alias           id.RoomAlias // empty for none
	Invite          []id.UserID
	IsDirect        bool
	CreationContent map[string]json.RawMessage
	InitialState    []StateEvent
	PowerOverride   map[string]json.RawMessage
	// Profile is the creator's, put into the creator's membership.
	Profile Profile
}

// StateEvent is a piece of state to begin with.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Profile is how a user is shown in rooms.
type Profile struct {
	DisplayName string
	AvatarURL   string
}

// presets are the states that rooms begin with. Where only members can let others in, each of them may invite; into
// public rooms moderators do, so that by default a change of the join rule does not leave the door open.
var presets = map[string]struct {
	joinRule, history, guests string
	invite                    int
}{
	"private_chat":         {"invite", "shared", "can_join", 0},
	"trusted_private_chat": {"invite", "shared", "can_join", 0},
	"public_chat":          {"public", "shared", "forbidden", 50},
}

// Limits of what a new room may begin with.
const (
	maxInitialState = 100
	maxInvites      = 100
)

// Create makes a room with all it begins with in one transaction. Invites of other servers' users, which these have to
// sign, are written down in it and follow: AwaitInvites. alias, which may be nil, claims the room's alias in that
// transaction.
func (e *Engine) Create(ctx context.Context, c Creation, alias func(*store.Tx, id.RoomID) error) (id.RoomID, error) {
	if c.Version == "" {
		c.Version = e.DefaultVersion
	}
	v, ok := event.VersionOf(c.Version)
	if !ok {
		return "", fmt.Errorf("%w: %q", ErrUnknownVersion, c.Version)
	}
	if c.Preset == "" {
		if c.Preset = "private_chat"; c.Public {
			c.Preset = "public_chat"
		}
	}
	if _, ok := presets[c.Preset]; !ok {
		return "", fmt.Errorf("%w: there is no preset %q", ErrBadRequest, c.Preset)
	}
	if len(c.InitialState) > maxInitialState || len(c.Invite) > maxInvites {
		return "", fmt.Errorf("%w: at most %d pieces of initial state and %d invites", ErrBadRequest, maxInitialState, maxInvites)
	}
	if err := e.checkCreation(&c); err != nil {
		return "", err
	}
	protos, err := c.protos(v)
	if err != nil {
		return "", err
	}
	l, d, err := e.createDraft(ctx, v, protos, &c.Profile)
	if err != nil {
		return "", err
	}
	if err := d.inviteOwn(ctx, c); err != nil {
		return "", err
	}
	var foreign []id.UserID
	if e.Remote != nil {
		foreign = c.foreign(e.Server)
	}
	e.invites.expect(d.room.ID, foreign)
	err = e.Store.Update(ctx, func(tx *store.Tx) error {
		if err := d.write(tx); err != nil {
			return err
		}
		if c.Public {
			if err := tx.Rooms.SetPublished(d.room.NID, true); err != nil {
				return err
			}
		}
		if err := c.noteInvites(tx, d.room.NID, foreign); err != nil || alias == nil {
			return err
		}
		return alias(tx, d.room.ID)
	})
	if err != nil || len(foreign) == 0 {
		e.invites.tried(d.room.ID, "")
	}
	if err != nil {
		return "", fmt.Errorf("create a room: %w", err)
	}
	newcomers := d.newcomers()
	l.face, l.loaded = d.face, true
	e.keep(l)
	e.invites.wake()
	e.follow(ctx, newcomers)
	return d.room.ID, nil
}

// inviteOwn invites the users of this server into a new room, each shown as the profile says. Who may not be invited, the
// creator for one, is left out. Error: ErrTooMany.
func (d *draft) inviteOwn(ctx context.Context, c Creation) error {
	own := slices.DeleteFunc(slices.Clone(c.Invite), func(u id.UserID) bool { return u.Server() != d.e.Server })
	slices.Sort(own)
	own = slices.Compact(own)
	profiles := make([]Profile, len(own))
	err := d.e.Store.View(ctx, func(tx *store.Tx) error {
		for i, u := range own {
			if err := checkPending(tx, u, c.Creator, d.room.NID); err != nil {
				return err
			}
			fields, err := tx.Profiles.Get(u)
			if err != nil {
				return err
			}
			profiles[i] = ProfileOf(fields)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, u := range own {
		change := Change{Membership: "invite", Profile: profiles[i], IsDirect: c.IsDirect}
		content, err := change.content()
		if err != nil {
			return err
		}
		target := string(u)
		v, err := d.build(ctx, event.Proto{Type: event.TypeMember, StateKey: &target, Sender: c.Creator, Content: content})
		if errors.Is(err, ErrForbidden) {
			d.e.Log.Info("cannot invite into a new room", "room", d.room.ID, "user", u, "err", err)
			continue
		}
		if err != nil {
			return err
		}
		if _, err := d.add(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// createDraft builds the first events of a room.
// The second is the creator's join, which shows a profile.
func (e *Engine) createDraft(ctx context.Context, v *event.Version, protos []event.Proto, shown *Profile) (*live, *draft, error) {
	if err := e.checkCreateContent(ctx, v, protos[0].Content); err != nil {
		return nil, nil, err
	}
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return nil, nil, err
	}
	room := &store.Room{NID: store.RoomNID(nid), Version: v}
	if !v.RoomIDIsCreateHash {
		room.ID = id.RoomID("!" + rand.Text() + ":" + string(e.Server))
	}
	d := &draft{e: e, room: room}
	d.summary = store.Summary{JoinRule: "invite", HistoryVisibility: "shared", GuestAccess: "forbidden"}
	d.auth = eventauth.NewContext(knownState{}, nil)
	d.known = map[event.StateKeyTuple]*store.Event{}
	if v.RoomIDIsCreateHash {
		// The room's ID is nothing but what stands in its first event: no two may be alike.
		protos[0].OriginServerTS = e.uniqueTime()
	}
	for i, p := range protos {
		if p.Type == event.TypePowerLevels && *p.StateKey == "" {
			if err := checkLevels(v, p.Content); err != nil {
				return nil, nil, err
			}
		}
		verified, err := d.build(ctx, p)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p.Type, err)
		}
		if i == 0 {
			room.ID = verified.Event().RoomID
		}
		a, err := d.add(ctx, verified)
		if err != nil {
			return nil, nil, err
		}
		if i == 1 {
			a.shown = shown
		}
	}
	d.head.Seq = 1
	return &live{room: room}, d, nil
}

// protos lists the events that the room begins with, in the specification's order.
func (c *Creation) protos(v *event.Version) ([]event.Proto, error) {
	var list []event.Proto
	add := func(typ, key string, content any) error {
		raw, err := json.Marshal(content)
		list = append(list, event.Proto{Type: typ, StateKey: &key, Sender: c.Creator, Content: raw})
		return err
	}
	preset := presets[c.Preset]
	create := maps.Clone(c.CreationContent)
	if create == nil {
		create = map[string]json.RawMessage{}
	}
	create["room_version"], _ = json.Marshal(c.Version)
	delete(create, "creator")
	if !v.UseCreateSender {
		create["creator"], _ = json.Marshal(c.Creator)
	}
	if err := c.addCreators(v, create); err != nil {
		return nil, err
	}
	levels, err := c.powerLevels(v)
	if err != nil {
		return nil, err
	}
	steps := []struct {
		typ, key string
		content  any
		wanted   bool
	}{
		{event.TypeCreate, "", create, true},
		{event.TypeMember, string(c.Creator), c.Profile.content("join"), true},
		{event.TypePowerLevels, "", levels, true},
		{"m.room.canonical_alias", "", map[string]any{"alias": c.Alias}, c.Alias != "" && !c.begins("m.room.canonical_alias")},
		{event.TypeJoinRules, "", map[string]any{"join_rule": preset.joinRule}, !c.begins(event.TypeJoinRules)},
		{event.TypeHistoryVisibility, "", map[string]any{"history_visibility": preset.history}, !c.begins(event.TypeHistoryVisibility)},
		{"m.room.guest_access", "", map[string]any{"guest_access": preset.guests}, preset.guests != "forbidden" && !c.begins("m.room.guest_access")},
	}
	for _, s := range steps {
		if s.wanted {
			if err := add(s.typ, s.key, s.content); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range c.InitialState {
		if s.Type == event.TypeCreate || s.Type == event.TypeMember {
			return nil, fmt.Errorf("%w: initial_state may not hold %s", ErrBadRequest, s.Type)
		}
		if len(s.Content) == 0 {
			s.Content = json.RawMessage("{}")
		}
		if err := add(s.Type, s.StateKey, s.Content); err != nil {
			return nil, fmt.Errorf("%w: the content of %s in initial_state is not JSON", ErrBadRequest, s.Type)
		}
	}
	if c.Name != "" {
		if err := add("m.room.name", "", map[string]any{"name": c.Name}); err != nil {
			return nil, err
		}
	}
	if c.Topic != "" {
		topic := map[string]any{"topic": c.Topic, "m.topic": map[string]any{"m.text": []any{map[string]any{"body": c.Topic}}}}
		if err := add("m.room.topic", "", topic); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// begins says whether the initial state holds a type with an empty key.
func (c *Creation) begins(typ string) bool {
	return slices.ContainsFunc(c.InitialState, func(s StateEvent) bool { return s.Type == typ && s.StateKey == "" })
}

// addCreators makes the invited users of a trusted private chat creators too, where the version has such.
func (c *Creation) addCreators(v *event.Version, create map[string]json.RawMessage) error {
	if !v.PrivilegedCreators {
		return nil
	}
	additional, err := creatorsIn(v, create)
	if err != nil {
		return err
	}
	if c.Preset == "trusted_private_chat" {
		for _, u := range c.Invite {
			if !slices.Contains(additional, u) && u != c.Creator {
				additional = append(additional, u)
			}
		}
	}
	if len(additional) > 0 {
		raw, err := json.Marshal(additional)
		if err != nil {
			return err
		}
		create["additional_creators"] = raw
	}
	return nil
}

// usualTombstone is the level for closing a room in versions that have creators above all levels.
const usualTombstone = 150

// powerLevels are those that the room begins with.
func (c *Creation) powerLevels(v *event.Version) (map[string]json.RawMessage, error) {
	users := map[id.UserID]int{}
	tombstone := 100
	if v.PrivilegedCreators {
		tombstone = usualTombstone
	} else {
		users[c.Creator] = 100
		if c.Preset == "trusted_private_chat" {
			for _, u := range c.Invite {
				users[u] = 100
			}
		}
	}
	whole := map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": presets[c.Preset].invite, "historical": 100,
		"events": map[string]int{
			"m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.topic": 50,
			event.TypePowerLevels: 100, event.TypeHistoryVisibility: 100, "m.room.encryption": 100, "m.room.server_acl": 100,
			"m.room.tombstone": tombstone,
		},
	}
	out := map[string]json.RawMessage{}
	for k, value := range whole {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[k] = raw
	}
	maps.Copy(out, c.PowerOverride)
	return out, nil
}

// ProfileOf takes from the fields of a profile what rooms show.
func ProfileOf(fields map[string]json.RawMessage) Profile {
	var p Profile
	// A field of another type than text shows nothing.
	_ = json.Unmarshal(fields["displayname"], &p.DisplayName)
	_ = json.Unmarshal(fields["avatar_url"], &p.AvatarURL)
	return p
}

// field is one of the fields by its name in the specification.
func (p Profile) field(name string) string {
	if name == "displayname" {
		return p.DisplayName
	}
	return p.AvatarURL
}

// content is an m.room.member's.
func (p Profile) content(membership string) map[string]any {
	content := map[string]any{"membership": membership}
	if p.DisplayName != "" {
		content["displayname"] = p.DisplayName
	}
	if p.AvatarURL != "" {
		content["avatar_url"] = p.AvatarURL
	}
	return content
}

// uniqueTime is the time in milliseconds since 1970, but never the same twice.
func (e *Engine) uniqueTime() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastTime = max(e.lastTime+1, now())
	return e.lastTime
}
