package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Upgrade is what a user wants of the replacement of a room (Client-Server API, "Room Upgrades").
type Upgrade struct {
	Room    id.RoomID
	User    id.UserID
	Version id.RoomVersion
	// AdditionalCreators are ignored by versions that know none.
	AdditionalCreators []id.UserID
	// Profile is the user's, put into the membership in the new room.
	Profile Profile
}

// Written is how much something wrote.
type Written struct{ Events, Bytes int }

const (
	typeTombstone      = "m.room.tombstone"
	typeCanonicalAlias = "m.room.canonical_alias"
	typeSpaceChild     = "m.space.child"
)

// Upgrade replaces a room by one of another version, in one transaction: the new room with the state of the old one,
// the aliases and the place in the list of public rooms, and the tombstone. It returns the new room and what was written. Errors:
// ErrNotFound, ErrForbidden, ErrUnknownVersion, ErrBadRequest.
func (e *Engine) Upgrade(ctx context.Context, u Upgrade) (id.RoomID, Written, error) {
	var none Written
	if err := e.mayUpgrade(ctx, u); err != nil {
		return "", none, err
	}
	v, ok := event.VersionOf(u.Version)
	if !ok {
		return "", none, fmt.Errorf("%w: %q", ErrUnknownVersion, u.Version)
	}
	for _, typ := range []string{typeTombstone, typeCanonicalAlias, event.TypePowerLevels} {
		if _, err := e.Store.StateKey(ctx, event.StateKeyTuple{Type: typ}); err != nil {
			return "", none, err
		}
	}
	l, err := e.live(ctx, u.Room)
	if err != nil {
		return "", none, err
	}
	for range maxRetries {
		roomID, wrote, err := e.tryUpgrade(ctx, l, v, u)
		if !errors.Is(err, errStale) {
			return roomID, wrote, err
		}
	}
	return "", none, fmt.Errorf("%w: %s", ErrBusy, u.Room)
}

// mayUpgrade says early whether a user may; the rules of the room decide when the tombstone is built.
func (e *Engine) mayUpgrade(ctx context.Context, u Upgrade) error {
	membership, room, err := e.MembershipOf(ctx, u.Room, u.User)
	if err != nil {
		return err
	}
	if room == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, u.Room)
	}
	if membership != "join" {
		return fmt.Errorf("%w: you are not in the room", ErrForbidden)
	}
	rules, err := e.Levels(ctx, u.Room)
	if err != nil {
		return err
	}
	if rules.UserLevel(u.User) < rules.Levels().Event(typeTombstone, true) {
		return fmt.Errorf("%w: your power level is too low to upgrade the room", ErrForbidden)
	}
	return nil
}

func (e *Engine) tryUpgrade(ctx context.Context, l *live, v *event.Version, u Upgrade) (id.RoomID, Written, error) {
	var wrote Written
	l.mu.Lock()
	old, err := e.draft(ctx, l)
	var next *live
	var created *draft
	if err == nil {
		next, created, err = old.replace(ctx, v, u)
	}
	if err != nil {
		l.mu.Unlock()
		return "", wrote, err
	}
	for _, a := range slices.Concat(old.additions, created.additions) {
		wrote.Events++
		wrote.Bytes += len(a.ev.JSON)
	}
	newcomers := created.newcomers()
	wait, err := old.queue(ctx, l, func(tx *store.Tx) error {
		if err := old.write(tx); err != nil {
			return err
		}
		if err := created.write(tx); err != nil {
			return err
		}
		return tx.Rooms.Succeed(old.room, created.room)
	})
	l.mu.Unlock()
	if err != nil {
		return "", wrote, err
	}
	if err := wait(); err != nil {
		return "", wrote, fmt.Errorf("upgrade room %s: %w", u.Room, err)
	}
	next.face, next.loaded = created.face, true
	e.keep(next)
	e.follow(ctx, newcomers)
	return created.room.ID, wrote, nil
}

// replace drafts the new room, and on top of the draft of the old one what ends that.
func (d *draft) replace(ctx context.Context, v *event.Version, u Upgrade) (*live, *draft, error) {
	state, err := d.transferable(ctx)
	if err != nil {
		return nil, nil, err
	}
	protos, err := d.successor(v, u, state)
	if err != nil {
		return nil, nil, err
	}
	next, created, err := d.e.createDraft(ctx, v, protos, &u.Profile)
	if err != nil {
		return nil, nil, fmt.Errorf("the new room: %w", err)
	}
	tombstone, err := json.Marshal(map[string]any{"body": "This room has been replaced", "replacement_room": created.room.ID})
	if err != nil {
		return nil, nil, err
	}
	if err := d.set(ctx, u.User, typeTombstone, tombstone); err != nil {
		return nil, nil, err
	}
	if err := d.quieten(ctx, u.User, state[event.StateKeyTuple{Type: event.TypePowerLevels}]); err != nil {
		return nil, nil, err
	}
	kept, moved := d.splitAliases(state[event.StateKeyTuple{Type: typeCanonicalAlias}])
	if moved != nil {
		err = d.setIfAllowed(ctx, u.User, typeCanonicalAlias, kept)
	}
	return next, created, err
}

// quieten raises the levels for sending and inviting in the old room, if the user may.
func (d *draft) quieten(ctx context.Context, user id.UserID, old *store.Event) error {
	if old == nil {
		return nil
	}
	var levels map[string]json.RawMessage
	if json.Unmarshal(old.Content, &levels) != nil {
		return nil
	}
	now := d.auth.Levels()
	least := max(50, min(now.User(""), maxLevel-1)+1)
	if now.Event("", false) >= least && now.Invite() >= least {
		return nil
	}
	levels["events_default"] = strconv.AppendInt(nil, max(least, now.Event("", false)), 10)
	levels["invite"] = strconv.AppendInt(nil, max(least, now.Invite()), 10)
	return d.setIfAllowed(ctx, user, event.TypePowerLevels, levels)
}

// splitAliases divides an m.room.canonical_alias by the aliases of this server, which move; moved is nil if there are none.
func (d *draft) splitAliases(ev *store.Event) (kept, moved map[string]any) {
	var content struct {
		Alias id.RoomAlias   `json:"alias"`
		Alt   []id.RoomAlias `json:"alt_aliases"`
	}
	if ev == nil || json.Unmarshal(ev.Content, &content) != nil {
		return nil, nil
	}
	kept, moved = map[string]any{}, map[string]any{}
	to := func(a id.RoomAlias) map[string]any {
		if a.Server() == d.e.Server {
			return moved
		}
		return kept
	}
	if content.Alias != "" {
		to(content.Alias)["alias"] = content.Alias
	}
	for _, a := range content.Alt {
		alt, _ := to(a)["alt_aliases"].([]id.RoomAlias)
		to(a)["alt_aliases"] = append(alt, a)
	}
	if len(moved) == 0 {
		return kept, nil
	}
	return kept, moved
}

// set builds a piece of state with an empty key and adds it.
func (d *draft) set(ctx context.Context, user id.UserID, typ string, content json.RawMessage) error {
	key := ""
	v, err := d.build(ctx, event.Proto{Type: typ, StateKey: &key, Sender: user, Content: content})
	if err != nil {
		return fmt.Errorf("%s: %w", typ, err)
	}
	_, err = d.add(ctx, v)
	return err
}

// setIfAllowed is set, or nothing where the rules of the room forbid it.
func (d *draft) setIfAllowed(ctx context.Context, user id.UserID, typ string, content any) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := d.set(ctx, user, typ, raw); !errors.Is(err, ErrForbidden) {
		return err
	}
	return nil
}
