package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// State of our own users that could not be taken back, or that shows others what nobody meant to show, is refused. What
// other servers send is as it is.

const typeEncryption = "m.room.encryption"

// stateChecks check the content of state with an empty key.
var stateChecks = map[string]func(e *Engine, room id.RoomID, content map[string]json.RawMessage) error{
	aclTuple.Type:               (*Engine).checkACL,
	typeTombstone:               (*Engine).checkTombstone,
	typeEncryption:              (*Engine).checkEncryption,
	event.TypeHistoryVisibility: (*Engine).checkVisibility,
	event.TypeJoinRules:         (*Engine).checkJoinRules,
}

// checkState refuses state that nobody can want. The room is empty for one that is being made. Error: ErrBadRequest.
func (e *Engine) checkState(room id.RoomID, typ, key string, content json.RawMessage) error {
	check := stateChecks[typ]
	if check == nil || key != "" {
		return nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil {
		return nil // no event can be made of it
	}
	if err := check(e, room, members); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBadRequest, typ, err)
	}
	return nil
}

// checkACL refuses an access list that can't be read, or that bars this server: it could never be changed again from
// here (Client-Server API, "Server Access Control Lists (ACLs) for rooms").
func (e *Engine) checkACL(_ id.RoomID, content map[string]json.RawMessage) error {
	for _, name := range []string{"allow", "deny"} {
		var list []string
		if raw, ok := content[name]; ok && (json.Unmarshal(raw, &list) != nil || list == nil) {
			return fmt.Errorf("%s must be a list of server names, in which * and ? stand for other characters", name)
		}
		if len(list) > maxACL {
			return fmt.Errorf("%s has more than %d entries", name, maxACL)
		}
	}
	var literals *bool
	if raw, ok := content["allow_ip_literals"]; ok && (json.Unmarshal(raw, &literals) != nil || literals == nil) {
		return fmt.Errorf("allow_ip_literals must be true or false")
	}
	if !aclOf(content).allows(e.Server) {
		return fmt.Errorf("the list would bar %s, the server of this room's users; allow must name it, or *, and deny must not", e.Server)
	}
	return nil
}

// checkTombstone refuses one that leads nowhere, or back.
func (e *Engine) checkTombstone(room id.RoomID, content map[string]json.RawMessage) error {
	raw, ok := content["replacement_room"]
	if !ok {
		return nil
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return fmt.Errorf("replacement_room must be a room ID")
	}
	to, err := id.ParseRoomID(text)
	switch {
	case err != nil:
		return fmt.Errorf("replacement_room: %w", err)
	case to == room:
		return fmt.Errorf("a room cannot be its own replacement")
	}
	return nil
}

// checkEncryption refuses what clients could not encrypt by.
func (e *Engine) checkEncryption(_ id.RoomID, content map[string]json.RawMessage) error {
	var algorithm string
	if json.Unmarshal(content["algorithm"], &algorithm) != nil || algorithm == "" {
		return fmt.Errorf("algorithm must be the name of one; encryption cannot be switched off")
	}
	for _, name := range []string{"rotation_period_ms", "rotation_period_msgs"} {
		var n int64
		if raw, ok := content[name]; ok && (json.Unmarshal(raw, &n) != nil || n <= 0) {
			return fmt.Errorf("%s must be a whole number above 0", name)
		}
	}
	return nil
}

// checkVisibility refuses what counts as "shared" because it can't be read: who joins later would see what was said.
func (e *Engine) checkVisibility(_ id.RoomID, content map[string]json.RawMessage) error {
	var visibility string
	if json.Unmarshal(content["history_visibility"], &visibility) != nil ||
		!slices.Contains([]string{"invited", "joined", "shared", "world_readable"}, visibility) {
		return fmt.Errorf("history_visibility must be invited, joined, shared or world_readable")
	}
	return nil
}

// checkJoinRules refuses what lets nobody in because it can't be read. Conditions that can't be read let nobody in by
// themselves, and may be of a kind that is not known here.
func (e *Engine) checkJoinRules(_ id.RoomID, content map[string]json.RawMessage) error {
	var rule string
	if json.Unmarshal(content["join_rule"], &rule) != nil || rule == "" {
		return fmt.Errorf("join_rule must be the name of one")
	}
	return nil
}

// checkLevels refuses power levels that nobody could ever change again. Where creators are above them, somebody can. An
// empty content, by which state is taken away, is no slip in editing, and what is malformed is for the authorization rules.
func checkLevels(v *event.Version, content json.RawMessage) error {
	levels, err := eventauth.ParsePowerLevels(v, content)
	if err != nil || v.PrivilegedCreators {
		return nil
	}
	var members map[string]json.RawMessage
	var named map[id.UserID]json.RawMessage
	needed := levels.Event(event.TypePowerLevels, true)
	if json.Unmarshal(content, &members) != nil || len(members) == 0 || levels.User("") >= needed {
		return nil
	}
	if raw, ok := members["users"]; ok && json.Unmarshal(raw, &named) != nil {
		return nil
	}
	for user := range named {
		if levels.User(user) >= needed {
			return nil
		}
	}
	return fmt.Errorf("%w: %s: nobody would have the power level of %d that it takes to change them again; name somebody under users who has", ErrBadRequest, event.TypePowerLevels, needed)
}

// checkChange is checkState in a room that is there: an algorithm, once set, stays (Client-Server API, "End-to-End
// Encryption", "Enabling encryption in a room": it cannot be disabled).
func (d *draft) checkChange(ctx context.Context, m Message) error {
	err := d.e.checkState(m.Room, m.Type, *m.StateKey, m.Content)
	if err == nil && m.Type == event.TypePowerLevels && *m.StateKey == "" && d.auth.UserLevel(m.Sender) >= d.auth.Levels().Event(m.Type, true) {
		err = checkLevels(d.room.Version, m.Content)
	}
	if err != nil || m.Type != typeEncryption || *m.StateKey != "" {
		return err
	}
	t := event.StateKeyTuple{Type: typeEncryption}
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
	if err != nil || state[t] == nil {
		return err
	}
	if former, wanted := algorithmIn(state[t].Content), algorithmIn(m.Content); former != "" && wanted != former {
		return fmt.Errorf("%w: the room is encrypted by %s, which cannot be taken back", ErrBadRequest, former)
	}
	return nil
}

func algorithmIn(content json.RawMessage) string {
	var encryption struct {
		Algorithm string `json:"algorithm"`
	}
	if json.Unmarshal(content, &encryption) != nil {
		return ""
	}
	return encryption.Algorithm
}

// staysWhole says whether state must not be redacted by our users: without its content an access list bars everybody,
// and a room would no longer be known to be encrypted.
func staysWhole(target *store.Event) bool {
	return target.StateKeyIs(aclTuple.Type, "") || target.StateKeyIs(typeEncryption, "")
}

// checkCreation checks what a new room is to begin with, as far as it could not be taken back. See checkCreateContent, too.
func (e *Engine) checkCreation(c *Creation) error {
	federate, err := federates(c.CreationContent)
	if err != nil {
		return err
	}
	if foreign := c.foreign(e.Server); !federate && len(foreign) > 0 {
		return fmt.Errorf("%w: %s cannot be invited into a room for users of this server only", ErrBadRequest, foreign[0])
	}
	for _, s := range c.InitialState {
		if len(s.Content) == 0 {
			s.Content = json.RawMessage("{}")
		}
		if err := e.checkState("", s.Type, s.StateKey, s.Content); err != nil {
			return err
		}
	}
	return nil
}

// checkCreateContent checks what a new room's m.room.create says, which nobody can ever change: that it can be read, and whom it
// gives all power.
func (e *Engine) checkCreateContent(ctx context.Context, v *event.Version, raw json.RawMessage) error {
	var create map[string]json.RawMessage
	if err := json.Unmarshal(raw, &create); err != nil {
		return fmt.Errorf("%w: %s: the content is no object", ErrBadRequest, event.TypeCreate)
	}
	federate, err := federates(create)
	if err != nil {
		return err
	}
	if raw, ok := create["type"]; ok && !isText(raw) {
		return fmt.Errorf("%w: the type of a room must be a string", ErrBadRequest)
	}
	if raw, ok := create["predecessor"]; ok {
		if err := checkPredecessor(raw); err != nil {
			return fmt.Errorf("%w: predecessor: %w", ErrBadRequest, err)
		}
	}
	creators, err := creatorsIn(v, create)
	if err != nil || len(creators) == 0 {
		return err
	}
	return e.checkCreators(ctx, creators, federate)
}

// federates reads whether a room is for users of all servers.
func federates(create map[string]json.RawMessage) (bool, error) {
	var federate *bool
	raw, ok := create["m.federate"]
	if !ok {
		return true, nil
	}
	if json.Unmarshal(raw, &federate) != nil || federate == nil {
		return false, fmt.Errorf("%w: m.federate must be true or false", ErrBadRequest)
	}
	return *federate, nil
}

func isText(raw json.RawMessage) bool {
	var text *string
	return json.Unmarshal(raw, &text) == nil && text != nil
}

func checkPredecessor(raw json.RawMessage) error {
	var former struct {
		Room  string          `json:"room_id"`
		Event json.RawMessage `json:"event_id"`
	}
	if json.Unmarshal(raw, &former) != nil {
		return fmt.Errorf("it must be an object with a room_id")
	}
	if _, err := id.ParseRoomID(former.Room); err != nil {
		return err
	}
	if former.Event != nil && !isText(former.Event) {
		return fmt.Errorf("event_id must be the ID of an event")
	}
	return nil
}

// creatorsIn reads whom m.room.create names as creators beside its sender.
func creatorsIn(v *event.Version, create map[string]json.RawMessage) ([]id.UserID, error) {
	raw, ok := create["additional_creators"]
	if !ok || !v.PrivilegedCreators {
		return nil, nil
	}
	var creators []id.UserID
	if json.Unmarshal(raw, &creators) != nil || creators == nil {
		return nil, fmt.Errorf("%w: additional_creators must be a list of user IDs", ErrBadRequest)
	}
	for _, u := range creators {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return nil, fmt.Errorf("%w: additional_creators: %w", ErrBadRequest, err)
		}
	}
	return creators, nil
}

// checkCreators refuses creators who could never come into the room, and those whom this server does not have: whoever
// took such a name later would have all power in the room.
func (e *Engine) checkCreators(ctx context.Context, creators []id.UserID, federate bool) error {
	var own []id.UserID
	for _, u := range creators {
		if u.Server() == e.Server {
			own = append(own, u)
		} else if !federate {
			return fmt.Errorf("%w: %s cannot be a creator of a room for users of this server only", ErrBadRequest, u)
		}
	}
	return e.Store.View(ctx, func(tx *store.Tx) error {
		known, err := tx.Users.Active(own)
		for _, u := range own {
			if err == nil && !known[u] {
				return fmt.Errorf("%w: additional_creators: this server has no user %s", ErrBadRequest, u)
			}
		}
		return err
	})
}

// mayFederate refuses users of other servers if the room is for those of its creator's server only: an invite would lead
// nowhere.
func (d *draft) mayFederate(ctx context.Context) error {
	t := event.StateKeyTuple{Type: event.TypeCreate}
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
	if err != nil || state[t] == nil {
		return err
	}
	var create struct {
		Federate *bool `json:"m.federate"`
	}
	if json.Unmarshal(state[t].Content, &create) == nil && create.Federate != nil && !*create.Federate {
		return fmt.Errorf("%w: the room is for users of %s only", ErrForbidden, state[t].Sender.Server())
	}
	return nil
}
