package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// remoteList is what another server says of a user's keys, as far as it is well-formed and not too much.
type remoteList struct {
	user     id.UserID
	streamID int64 // 0: not known
	devices  []store.IdentityKeys
	signing  []store.SigningKey
	size     int // bytes, as store.DeviceKeys.Sizes counts them
	left     int // devices that are left out
}

// checkUserDevices sets aside what is malformed or too much. That is the same each time, whatever the order.
func (s *Service) checkUserDevices(user id.UserID, d *UserDevices) remoteList {
	l := remoteList{user: user, streamID: max(d.StreamID, 0)}
	devices := slices.Clone(d.Devices)
	slices.SortStableFunc(devices, func(a, b UserDevice) int { return cmp.Compare(a.DeviceID, b.DeviceID) })
	for _, device := range devices {
		l.addDevice(device.DeviceID, device.Keys, device.DisplayName)
	}
	l.addSigning(master, d.MasterKey)
	l.addSigning(selfSigning, d.SelfSigningKey)
	s.noteLeft(l)
	return l
}

// checkPublished picks one user and sets aside what is malformed or too much.
func (s *Service) checkPublished(user id.UserID, p *Published) remoteList {
	l := remoteList{user: user}
	for _, device := range slices.Sorted(maps.Keys(p.DeviceKeys[user])) {
		raw := p.DeviceKeys[user][device]
		var extra struct {
			Unsigned struct {
				DisplayName string `json:"device_display_name"`
			} `json:"unsigned"`
		}
		if l.left > 0 || json.Unmarshal(raw, &extra) == nil {
			l.addDevice(device, raw, extra.Unsigned.DisplayName)
		}
	}
	l.addSigning(master, p.MasterKeys[user])
	l.addSigning(selfSigning, p.SelfSigningKeys[user])
	s.noteLeft(l)
	return l
}

// noteLeft logs that a list is too long.
func (s *Service) noteLeft(l remoteList) {
	if l.left > 0 && s.Log != nil {
		s.Log.Warn("devices of a user of another server are left out", "user", l.user, "taken", len(l.devices), "left", l.left)
	}
}

// addDevice adds a device unless it is malformed. Behind one that is too much, all are left out.
func (l *remoteList) addDevice(device id.DeviceID, raw json.RawMessage, name string) {
	if l.left > 0 {
		l.left++
		return
	}
	if checkName(string(device), "a device ID") != nil {
		return
	}
	keys, err := checkIdentity(raw, l.user, device)
	if err != nil {
		return
	}
	size := len(keys) + store.DeviceSize
	if len(l.devices) == maxRemoteDevices || l.size+size > maxUserIdentity {
		l.left++
		return
	}
	l.size += size
	l.devices = append(l.devices, store.IdentityKeys{User: l.user, Device: device, DisplayName: cleanName(name), JSON: keys})
}

// cleanName makes a display name that can be stored.
func cleanName(name string) string {
	if checkName(name, "a display name") != nil {
		return ""
	}
	return name
}

func (l *remoteList) addSigning(usage string, raw json.RawMessage) {
	if len(raw) == 0 || string(raw) == "null" {
		return
	}
	if k, err := checkSigningKey(l.user, usage, raw); err == nil {
		l.signing = append(l.signing, k)
		l.size += len(k.JSON)
	}
}

// cache keeps lists that were fetched after the position at, unless they changed meanwhile: before says
// when they had changed last. Others' updates come in between.
func (s *Service) cache(ctx context.Context, lists []remoteList, at stream.Position, before map[id.UserID]stream.Position) error {
	// Position 0 means "not cached"; a server without any history caches nothing.
	for len(lists) > 0 {
		n, size := 0, 0
		for ; n < len(lists) && (n == 0 || size+lists[n].size <= cacheStep); n++ {
			size += lists[n].size + store.DeviceSize
		}
		if err := s.Store.Update(ctx, func(tx *store.Tx) error { return cacheIn(tx, lists[:n], at, before) }); err != nil {
			return fmt.Errorf("cache device lists: %w", err)
		}
		lists = lists[n:]
	}
	return nil
}

func cacheIn(tx *store.Tx, lists []remoteList, at stream.Position, before map[id.UserID]stream.Position) error {
	for _, l := range lists {
		now, err := tx.DeviceLists.Get(l.user)
		if err != nil {
			return err
		}
		if now.Position != before[l.user] || now.CachedAt > at {
			continue
		}
		if err := l.write(tx, at); err != nil {
			return err
		}
	}
	return nil
}

func (l remoteList) write(tx *store.Tx, at stream.Position) error {
	if err := tx.DeviceLists.Drop(l.user); err != nil {
		return err
	}
	for _, d := range l.devices {
		if err := tx.DeviceKeys.Set(d); err != nil {
			return err
		}
	}
	for _, k := range l.signing {
		if err := tx.CrossSigning.Set(k); err != nil {
			return err
		}
	}
	return tx.DeviceLists.SetCached(l.user, l.streamID, at)
}

// ReceiveDeviceListUpdate takes the content of m.device_list_update from another server. An update that
// follows on the cached list is applied; if one was missed, the list is dropped and fetched anew when
// someone asks for it.
func (s *Service) ReceiveDeviceListUpdate(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var u listUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return fmt.Errorf("device list update: %w: a member is missing or has the wrong type", ErrInvalid)
	}
	if err := checkOrigin(origin, u.UserID); err != nil {
		return fmt.Errorf("device list update: %w", err)
	}
	if err := checkName(string(u.DeviceID), "a device ID"); err != nil {
		return fmt.Errorf("device list update: %w", err)
	}
	err := s.follow(ctx, u.UserID, func(tx *store.Tx, cached bool, who audience) error {
		// What follows on nothing and tells nothing comes with a user, whom clients have heard of. Of anything else, also who
		// fetches the list at this moment must hear.
		visible := u.Deleted || len(u.Keys) > 0 || len(u.PrevID) > 0
		if cached {
			list, err := tx.DeviceLists.Get(u.UserID)
			if err != nil {
				return err
			}
			switch {
			case list.StreamID > 0 && u.StreamID == list.StreamID:
				return nil // the list already holds it
			case u.StreamID < list.StreamID: // it came late, or the server counts anew: only the server can tell
				visible, err = true, tx.DeviceLists.Drop(u.UserID)
			case list.StreamID == 0 || len(u.PrevID) == 0 || slices.Max(u.PrevID) != list.StreamID:
				visible, err = true, tx.DeviceLists.Drop(u.UserID)
			default:
				visible, err = u.apply(tx, list)
			}
			if err != nil {
				return err
			}
		}
		if visible {
			tx.DeviceLists.Log(u.UserID, false, who.local)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("device list update: %w", err)
	}
	return nil
}

// apply changes the cached list and says whether clients can see it. One that becomes too long is dropped: once it is
// fetched, it is cut as always.
func (u *listUpdate) apply(tx *store.Tx, list store.DeviceList) (visible bool, err error) {
	l := remoteList{user: u.UserID}
	if !u.Deleted && len(u.Keys) > 0 {
		l.addDevice(u.DeviceID, u.Keys, u.DisplayName)
	}
	if len(l.devices) == 0 {
		visible, err = tx.DeviceKeys.Delete(u.UserID, u.DeviceID)
	} else {
		visible, err = true, tx.DeviceKeys.Set(l.devices[0])
	}
	if err != nil {
		return false, err
	}
	n, size, err := tx.DeviceKeys.Size(u.UserID)
	if err != nil {
		return false, err
	}
	if n > maxRemoteDevices || size+n*store.DeviceSize > maxUserIdentity {
		return true, tx.DeviceLists.Drop(u.UserID)
	}
	return visible, tx.DeviceLists.SetCached(u.UserID, u.StreamID, list.CachedAt)
}

// ReceiveSigningKeyUpdate takes the content of m.signing_key_update from another server.
func (s *Service) ReceiveSigningKeyUpdate(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var u struct {
		UserID         id.UserID       `json:"user_id"`
		MasterKey      json.RawMessage `json:"master_key"`
		SelfSigningKey json.RawMessage `json:"self_signing_key"`
	}
	if err := json.Unmarshal(content, &u); err != nil {
		return fmt.Errorf("signing key update: %w: a member has the wrong type", ErrInvalid)
	}
	if err := checkOrigin(origin, u.UserID); err != nil {
		return fmt.Errorf("signing key update: %w", err)
	}
	l := remoteList{user: u.UserID}
	l.addSigning(master, u.MasterKey)
	l.addSigning(selfSigning, u.SelfSigningKey)
	err := s.follow(ctx, u.UserID, func(tx *store.Tx, cached bool, who audience) error {
		if cached {
			for _, k := range l.signing {
				if err := tx.CrossSigning.Set(k); err != nil {
					return err
				}
			}
		}
		tx.DeviceLists.Log(u.UserID, false, who.local)
		return nil
	})
	if err != nil {
		return fmt.Errorf("signing key update: %w", err)
	}
	return nil
}

// follow runs an update of a remote user's list, if anyone here shares a room with the user; cached says
// whether the list is.
func (s *Service) follow(ctx context.Context, user id.UserID, fn func(tx *store.Tx, cached bool, who audience) error) error {
	who, err := s.audience(ctx, user)
	if err != nil || len(who.local) == 0 {
		return err
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		cached, err := tx.DeviceLists.Cached([]id.UserID{user})
		if err != nil {
			return err
		}
		return fn(tx, cached[user], who)
	})
}

// checkOrigin refuses what a server says of users of another one.
func checkOrigin(origin id.ServerName, user id.UserID) error {
	if _, err := id.ParseUserID(string(user)); err != nil {
		return err
	}
	if user.Server() != origin {
		return fmt.Errorf("%w: %s speaks of a user of another server", ErrNotOwn, origin)
	}
	return nil
}

// publicKey is the one key of a cross-signing key in canonical form; empty if there is none.
func publicKey(key []byte) string {
	for _, value := range canonicaljson.Members(canonicaljson.Get(key, "keys")) {
		public, _ := canonicaljson.String(value)
		return public
	}
	return ""
}
