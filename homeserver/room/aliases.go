package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// DropAlias takes an alias out of a room's m.room.canonical_alias, if that names it.
func (e *Engine) DropAlias(ctx context.Context, roomID id.RoomID, user id.UserID, alias id.RoomAlias) error {
	key := ""
	t := event.StateKeyTuple{Type: "m.room.canonical_alias"}
	return e.change(ctx, roomID, func(d *draft) error {
		state, err := e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
		if err != nil || state[t] == nil {
			return err
		}
		var content map[string]json.RawMessage
		var named id.RoomAlias
		var alt []id.RoomAlias
		if err := json.Unmarshal(state[t].Content, &content); err != nil {
			return fmt.Errorf("read the aliases of the room: %w", err)
		}
		// What is there but of another type names nothing.
		_ = json.Unmarshal(content["alias"], &named)
		_ = json.Unmarshal(content["alt_aliases"], &alt)
		if named != alias && !slices.Contains(alt, alias) {
			return nil
		}
		if named == alias {
			delete(content, "alias")
		}
		if i := slices.Index(alt, alias); i >= 0 {
			if content["alt_aliases"], err = json.Marshal(slices.Delete(alt, i, i+1)); err != nil {
				return err
			}
		}
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		v, err := d.build(ctx, event.Proto{Type: t.Type, StateKey: &key, Sender: user, Content: raw})
		if err != nil {
			return err
		}
		_, err = d.add(ctx, v)
		return err
	})
}

// MayNameAliases says whether a user may send an m.room.canonical_alias.
func (e *Engine) MayNameAliases(ctx context.Context, roomID id.RoomID, user id.UserID) (bool, error) {
	membership, _, err := e.MembershipOf(ctx, roomID, user)
	if err != nil || membership != "join" {
		return false, err
	}
	levels, err := e.Levels(ctx, roomID)
	if err != nil {
		return false, err
	}
	return levels.UserLevel(user) >= levels.Levels().Event("m.room.canonical_alias", true), nil
}

// Summary is what lists show of a room.
func (e *Engine) Summary(ctx context.Context, roomID id.RoomID) (store.Summary, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return store.Summary{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err = e.load(ctx, l)
	return l.summary, err
}
