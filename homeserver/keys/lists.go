package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// audience is who has to hear of a change of a user's devices: who shares a room with the user.
type audience struct {
	local   []id.UserID
	servers []id.ServerName
	at      stream.Position // when
}

// audience finds out who shares a room with a user, which takes long for who shares rooms with many: it is done before the
// update that tells them.
func (s *Service) audience(ctx context.Context, user id.UserID) (who audience, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		who, err = s.audienceIn(tx, user)
		return err
	})
	return who, err
}

// still is an audience as it is in an update, which is the same unless somebody has joined a room of the user since. Who
// comes to share one later hears of the user's devices by that.
func (s *Service) still(tx *store.Tx, user id.UserID, who audience) (audience, error) {
	if joined, err := tx.Memberships.SharesSince(user, who.at); err != nil || !joined {
		return who, err
	}
	return s.audienceIn(tx, user)
}

func (s *Service) audienceIn(tx *store.Tx, user id.UserID) (audience, error) {
	sharing, err := tx.Memberships.Sharing(user)
	if err != nil {
		return audience{}, err
	}
	var who audience
	if who.at, err = tx.Position(); err != nil {
		return audience{}, err
	}
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

const (
	// maxTold is how many bytes of a user's changes wait for other servers, and maxToldDevices how many changes for one. Of
	// what is more they are told that it is there: they fetch the list.
	maxTold        = 1 << 20
	maxToldDevices = 20
	// neverSent is a number that no update has: they begin at the time, in milliseconds. Whoever gets an update that
	// comes behind it has missed something, and fetches the list (Server-Server API, "Device Management").
	neverSent = 1
)

// listChanged logs that devices of a local user changed and tells other servers how they are now.
func (s *Service) listChanged(tx *store.Tx, user id.UserID, who audience, devices ...id.DeviceID) error {
	who, err := s.still(tx, user, who)
	if err != nil {
		return err
	}
	tx.DeviceLists.Log(user, true, who.local)
	return s.sendDevices(tx, user, devices, who.servers)
}

// sendDevices tells servers how devices of a local user are now. It is numbered even if there is no server to be told, so
// that one that comes back notices that it missed something.
func (s *Service) sendDevices(tx *store.Tx, user id.UserID, devices []id.DeviceID, servers []id.ServerName) error {
	told, edus := 0, make([][]byte, 0, len(devices))
	missed := listUpdate{UserID: user, PrevID: []int64{neverSent}}
	for _, device := range devices {
		before, number, err := tx.DeviceLists.NextStreamID(user)
		if err != nil || len(servers) == 0 {
			return err
		}
		missed.DeviceID, missed.StreamID = device, number
		u := listUpdate{UserID: user, DeviceID: device, StreamID: number, PrevID: []int64{}}
		if before > 0 {
			u.PrevID = append(u.PrevID, before)
		}
		edu, err := encodeDevice(tx, u)
		if err != nil {
			return err
		}
		if told += len(edu) * len(servers); told > maxTold || len(devices) > maxToldDevices {
			return sendMissed(tx, missed, servers)
		}
		edus = append(edus, edu)
	}
	return sendUpdates(tx, user, edus, servers, func() (listUpdate, error) { return missed, nil })
}

// aboutDevices is the subject of the updates of a local user's list of devices.
func aboutDevices(user id.UserID) string { return "m.device_list_update " + string(user) }

// sendUpdates tells servers of changes of a local user's devices or keys. Where too much of that waits already, what missed
// says takes the place of all of it.
func sendUpdates(tx *store.Tx, user id.UserID, edus [][]byte, servers []id.ServerName, missed func() (listUpdate, error)) error {
	waiting, err := tx.Outbox.About(aboutDevices(user))
	if err != nil {
		return err
	}
	size := 0
	for _, w := range waiting {
		size += w.Bytes
	}
	for _, edu := range edus {
		size += len(edu) * len(servers)
	}
	var told, behind []id.ServerName
	for _, server := range servers {
		if size > maxTold || waiting[server].Count+len(edus) > maxToldDevices {
			behind = append(behind, server)
		} else {
			told = append(told, server)
		}
	}
	for _, edu := range edus {
		tx.Outbox.AddEDU(told, store.DataUnit{JSON: edu, Subject: aboutDevices(user)})
	}
	if len(behind) == 0 {
		return nil
	}
	u, err := missed()
	if err != nil {
		return err
	}
	return sendMissed(tx, u, behind)
}

// sendMissed makes servers fetch the list of a local user's devices that do not have it as it is. They are told no more,
// so that what is written for many servers is small. It stands for all updates that wait for them.
func sendMissed(tx *store.Tx, u listUpdate, servers []id.ServerName) error {
	edu, err := encodeEDU("m.device_list_update", u)
	if err != nil {
		return err
	}
	return tx.Outbox.AddNewest(servers, store.DataUnit{JSON: edu, Subject: aboutDevices(u.UserID)})
}

// encodeDevice says how the device that an update names is now.
func encodeDevice(tx *store.Tx, u listUpdate) ([]byte, error) {
	d, ok, err := tx.Devices.Get(u.UserID, u.DeviceID)
	if err != nil {
		return nil, err
	}
	if u.Deleted = !ok; ok {
		u.DisplayName = d.DisplayName
		if u.Keys, err = tx.DeviceKeys.Get(u.UserID, u.DeviceID); err != nil {
			return nil, err
		}
	}
	return encodeEDU("m.device_list_update", u)
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

// DevicesChanging is to be called before an update that changes devices of a local user, and what it returns in the update:
// with the devices that are new or have another display name, and with those that have just been deleted. It deletes what
// hangs on these and tells who has to know.
func (s *Service) DevicesChanging(ctx context.Context, user id.UserID) (func(tx *store.Tx, named, deleted []id.DeviceID) error, error) {
	who, err := s.audience(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("who hears of devices: %w", err)
	}
	return func(tx *store.Tx, named, deleted []id.DeviceID) error {
		if len(deleted) > 0 {
			err := errors.Join(tx.DeviceKeys.DeleteDevices(user, deleted), tx.OneTimeKeys.DeleteDevices(user, deleted), tx.ToDevice.DeleteDevices(user, deleted))
			if err != nil {
				return err
			}
		}
		// Devices without keys count: clients list them too.
		return s.listChanged(tx, user, who, slices.Concat(named, deleted)...)
	}, nil
}

// EmptyDevices is to be called before devices of a local user are deleted that are logged out. It deletes what may be much of
// what hangs on them, some at a time: others wait for an update.
func (s *Service) EmptyDevices(ctx context.Context, user id.UserID, devices []id.DeviceID) error {
	err := s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Devices.Empty(user, devices, limit) })
	if err != nil {
		return fmt.Errorf("empty devices: %w", err)
	}
	return nil
}

// Joined has servers that have come to share a room with a local user fetch the list of the user's devices. Call it in
// the update by which the user joins, with the servers in the room. Nothing has changed, so no number is taken: servers
// that are not told would miss it. Those that have the list as it is can tell by the number; without one before it, it
// is news to nobody else.
func (s *Service) Joined(tx *store.Tx, user id.UserID, servers []id.ServerName) error {
	servers = slices.DeleteFunc(slices.Clone(servers), func(n id.ServerName) bool { return n == s.Server })
	if len(servers) == 0 {
		return nil
	}
	device, ok, err := tx.Devices.First(user)
	if err != nil || !ok {
		return err
	}
	list, err := tx.DeviceLists.Get(user)
	if err == nil && list.StreamID == 0 {
		_, list.StreamID, err = tx.DeviceLists.NextStreamID(user)
	}
	if err != nil {
		return err
	}
	edu, err := encodeEDU("m.device_list_update", listUpdate{UserID: user, DeviceID: device, StreamID: list.StreamID, PrevID: []int64{}})
	if err != nil {
		return err
	}
	return tx.Outbox.AddNewest(servers, store.DataUnit{JSON: edu, Subject: "joined " + string(user)})
}

// UserDeleted deletes the cross-signing keys and backups of a local user whose account is erased. Call it
// in the same update. What the backups held, and what the keys have signed, goes some at a time, when Prune runs next: others
// wait for the update.
func (s *Service) UserDeleted(tx *store.Tx, user id.UserID) error {
	if err := tx.CrossSigning.DeleteUser(user); err != nil {
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
