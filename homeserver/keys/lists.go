package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// audience is who has to hear of a change of a user's devices: who shares a room with the user.
type audience struct {
	local   []id.UserID
	servers []id.ServerName
}

// audience finds out who shares a room with a user. Who comes to share one later hears of the user's
// devices by that.
func (s *Service) audience(ctx context.Context, user id.UserID) (who audience, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		who, err = s.audienceIn(tx, user)
		return err
	})
	return who, err
}

func (s *Service) audienceIn(tx *store.Tx, user id.UserID) (audience, error) {
	sharing, err := tx.Memberships.Sharing(user)
	if err != nil {
		return audience{}, err
	}
	var who audience
	servers := map[id.ServerName]bool{}
	for _, u := range sharing {
		if !s.isLocal(u) {
			servers[u.Server()] = true
		} else if u != user {
			who.local = append(who.local, u)
		}
	}
	if s.isLocal(user) {
		who.local = append(who.local, user)
	}
	who.servers = slices.Sorted(maps.Keys(servers))
	return who, nil
}

// listUpdate is the content of m.device_list_update.
type listUpdate struct {
	UserID      id.UserID       `json:"user_id"`
	DeviceID    id.DeviceID     `json:"device_id"`
	DisplayName string          `json:"device_display_name,omitempty"`
	StreamID    int64           `json:"stream_id"`
	PrevID      []int64         `json:"prev_id"`
	Deleted     bool            `json:"deleted,omitempty"`
	Keys        json.RawMessage `json:"keys,omitempty"`
}

// listChanged logs that devices of a local user changed and tells other servers how they are now.
func (s *Service) listChanged(tx *store.Tx, user id.UserID, who audience, devices ...id.DeviceID) error {
	tx.DeviceLists.Log(user, true, who.local)
	for _, device := range devices {
		if err := s.sendDevice(tx, user, device, who.servers); err != nil {
			return err
		}
	}
	return nil
}

// sendDevice tells servers how a device of a local user is now. It is numbered even if there is no server
// to be told, so that one that comes back notices that it missed something.
func (s *Service) sendDevice(tx *store.Tx, user id.UserID, device id.DeviceID, servers []id.ServerName) error {
	before, number, err := tx.DeviceLists.NextStreamID(user)
	if err != nil || len(servers) == 0 {
		return err
	}
	u := listUpdate{UserID: user, DeviceID: device, StreamID: number, PrevID: []int64{}}
	if before > 0 {
		u.PrevID = append(u.PrevID, before)
	}
	return s.sendUpdate(tx, u, servers)
}

// sendUpdate tells servers how the device that an update names is now.
func (s *Service) sendUpdate(tx *store.Tx, u listUpdate, servers []id.ServerName) error {
	user, device := u.UserID, u.DeviceID
	d, ok, err := tx.Devices.Get(user, device)
	if err != nil {
		return err
	}
	if u.Deleted = !ok; ok {
		u.DisplayName = d.DisplayName
		if u.Keys, err = tx.DeviceKeys.Get(user, device); err != nil {
			return err
		}
	}
	return sendEDU(tx, servers, "m.device_list_update", u)
}

func sendEDU(tx *store.Tx, servers []id.ServerName, typ string, content any) error {
	edu, err := encodeEDU(typ, content)
	if err == nil {
		tx.Outbox.AddEDU(servers, edu)
	}
	return err
}

func encodeEDU(typ string, content any) ([]byte, error) {
	edu, err := json.Marshal(struct {
		Type    string `json:"edu_type"`
		Content any    `json:"content"`
	}{typ, content})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	return edu, nil
}

// DevicesDeleted deletes what hangs on devices of a local user that have just been deleted, and tells who
// has to know. Call it in the same update.
func (s *Service) DevicesDeleted(tx *store.Tx, user id.UserID, devices []id.DeviceID) error {
	who, err := s.audienceIn(tx, user)
	if err != nil {
		return err
	}
	for _, device := range devices {
		if _, err := tx.DeviceKeys.Delete(user, device); err != nil {
			return err
		}
		if err := tx.OneTimeKeys.DeleteDevice(user, device); err != nil {
			return err
		}
		if err := tx.ToDevice.DeleteDevice(user, device); err != nil {
			return err
		}
		if err := s.sendDevice(tx, user, device, who.servers); err != nil {
			return err
		}
	}
	// Devices without keys count: clients list them too.
	tx.DeviceLists.Log(user, true, who.local)
	return nil
}

// DeviceRenamed tells who has to know that a device of a local user is new, or has another display name. Call it in
// the update that changes it.
func (s *Service) DeviceRenamed(tx *store.Tx, user id.UserID, device id.DeviceID) error {
	who, err := s.audienceIn(tx, user)
	if err != nil {
		return err
	}
	return s.listChanged(tx, user, who, device)
}

// Joined tells servers that have come to share a room with a local user of the user's devices. Call it in
// the update by which the user joins, with the servers in the room. Nothing has changed, so no number is taken: servers
// that are not told would miss it. Without a previous number, an update makes those fetch the list that don't have it as it is.
func (s *Service) Joined(tx *store.Tx, user id.UserID, servers []id.ServerName) error {
	servers = slices.DeleteFunc(slices.Clone(servers), func(n id.ServerName) bool { return n == s.Server })
	if len(servers) == 0 {
		return nil
	}
	devices, err := tx.Devices.ByUser(user)
	if err != nil {
		return err
	}
	list, err := tx.DeviceLists.Get(user)
	if err != nil {
		return err
	}
	if list.StreamID == 0 && len(devices) > 0 {
		if _, list.StreamID, err = tx.DeviceLists.NextStreamID(user); err != nil {
			return err
		}
	}
	for _, d := range devices {
		if err := s.sendUpdate(tx, listUpdate{UserID: user, DeviceID: d.ID, StreamID: list.StreamID, PrevID: []int64{}}, servers); err != nil {
			return err
		}
	}
	return nil
}

// UserDeleted deletes the cross-signing keys and backups of a local user whose account is erased. Call it
// in the same update. What the backups held goes some at a time, when Prune runs next: others wait for the update.
func (s *Service) UserDeleted(tx *store.Tx, user id.UserID) error {
	if err := tx.CrossSigning.DeleteUser(user); err != nil {
		return err
	}
	if err := tx.CrossSigning.DeleteSignatures(user); err != nil {
		return err
	}
	return tx.KeyBackups.DeleteAll(user)
}

// Devices is the list of a local user's devices for another server, with the number of the last update.
func (s *Service) Devices(ctx context.Context, user id.UserID) (*UserDevices, error) {
	if !s.isLocal(user) {
		return nil, fmt.Errorf("devices: user: %w", ErrNotFound)
	}
	out := &UserDevices{UserID: user, Devices: []UserDevice{}}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.Users.Get(user); err != nil || !ok {
			return orNotFound(err, "user")
		}
		list, err := tx.DeviceLists.Get(user)
		if err != nil {
			return err
		}
		out.StreamID = list.StreamID
		devices, err := tx.DeviceKeys.ByUsers([]id.UserID{user})
		if err != nil {
			return err
		}
		for _, d := range devices {
			out.Devices = append(out.Devices, UserDevice{DeviceID: d.Device, Keys: d.JSON, DisplayName: d.DisplayName})
		}
		signing, err := tx.CrossSigning.ByUsers([]id.UserID{user})
		for _, k := range signing {
			switch k.Usage {
			case master:
				out.MasterKey = k.JSON
			case selfSigning:
				out.SelfSigningKey = k.JSON
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	return out, nil
}
