package account

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Devices lists the devices of a user.
func (s *Service) Devices(ctx context.Context, user id.UserID) ([]store.Device, error) {
	var out []store.Device
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		out, err = tx.Devices.ByUser(user)
		return err
	})
	return out, err
}

// Device reads one device.
func (s *Service) Device(ctx context.Context, user id.UserID, device id.DeviceID) (store.Device, error) {
	var out store.Device
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var ok bool
		var err error
		if out, ok, err = tx.Devices.Get(user, device); err == nil && !ok {
			return fmt.Errorf("device: %w", ErrNotFound)
		}
		return err
	})
	return out, err
}

// RenameDevice sets the display name of a device.
func (s *Service) RenameDevice(ctx context.Context, user id.UserID, device id.DeviceID, name string) error {
	if err := checkDeviceName(name); err != nil {
		return err
	}
	return s.changeDevices(ctx, user, func(tx *store.Tx, tell changed) error {
		ok, err := tx.Devices.Rename(user, device, name)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("device: %w", ErrNotFound)
		}
		return tell(tx, []id.DeviceID{device}, nil)
	})
}

// changed is what DevicesChanging returns.
type changed = func(tx *store.Tx, named, deleted []id.DeviceID) error

// changeDevices runs an update that changes devices of a user.
func (s *Service) changeDevices(ctx context.Context, user id.UserID, fn func(tx *store.Tx, tell changed) error) error {
	tell, err := s.DevicesChanging(ctx, user)
	if err != nil {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error { return fn(tx, tell) })
}

// deviceStep is how many of the devices that a request names are deleted in one update.
const deviceStep = 50

// DeleteDevices logs devices of a user out. Unknown ones are no error. Others' updates come in between.
func (s *Service) DeleteDevices(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	tell, err := s.DevicesChanging(ctx, user)
	for step := range slices.Chunk(devices, deviceStep) {
		if err != nil {
			break
		}
		err = s.DB.Update(ctx, func(tx *store.Tx) error { return s.removeDevices(tx, user, step, tell) })
	}
	if err != nil {
		return fmt.Errorf("delete devices: %w", err)
	}
	return nil
}

// Logout ends the session of a requester.
func (s *Service) Logout(ctx context.Context, r Requester) error {
	return s.DeleteDevices(ctx, r.User, r.Device)
}

// LogoutAll ends all sessions of a user, also those that would begin with a login token that was handed out.
func (s *Service) LogoutAll(ctx context.Context, user id.UserID) error {
	err := s.changeDevices(ctx, user, func(tx *store.Tx, tell changed) error {
		return errors.Join(s.removeAllDevices(tx, user, "", tell), tx.Passes.DeleteUser(user))
	})
	if err != nil {
		return fmt.Errorf("log out everywhere: %w", err)
	}
	return nil
}

// removeAllDevices removes the devices of a user but one.
func (s *Service) removeAllDevices(tx *store.Tx, user id.UserID, but id.DeviceID, tell changed) error {
	all, err := tx.Devices.ByUser(user)
	if err != nil {
		return err
	}
	var devices []id.DeviceID
	for _, d := range all {
		if d.ID != but {
			devices = append(devices, d.ID)
		}
	}
	return s.removeDevices(tx, user, devices, tell)
}

func (s *Service) removeDevices(tx *store.Tx, user id.UserID, devices []id.DeviceID, tell changed) error {
	var hashes [][]byte
	var deleted []id.DeviceID
	for _, device := range devices {
		gone, err := tx.Tokens.DeleteDevice(user, device)
		if err != nil {
			return err
		}
		hashes = append(hashes, gone...)
		ok, err := tx.Devices.Delete(user, device)
		if err != nil {
			return err
		}
		if ok {
			deleted = append(deleted, device)
		}
	}
	tx.AfterCommit(func() { s.sessions.forget(hashes) })
	if len(deleted) == 0 {
		return nil
	}
	return tell(tx, nil, deleted)
}

// ChangePassword replaces the password of a user. With logout all devices but the requester's are logged out, and
// tokens to log in with are void.
func (s *Service) ChangePassword(ctx context.Context, r Requester, password string, logout bool) error {
	if err := s.checkPolicy(password); err != nil {
		return err
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return fmt.Errorf("hash a password: %w", err)
	}
	err = s.changeDevices(ctx, r.User, func(tx *store.Tx, tell changed) error {
		u, ok, err := tx.Users.Get(r.User)
		if err != nil {
			return err
		}
		if !ok || u.Deactivated {
			return ErrDeactivated
		}
		if err := tx.Users.SetPassword(r.User, hash); err != nil {
			return err
		}
		if logout {
			return errors.Join(s.removeAllDevices(tx, r.User, r.Device, tell), tx.Passes.DeleteUser(r.User))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change a password: %w", err)
	}
	return nil
}

// Deactivate closes an account for ever: all devices are logged out, and the user leaves all rooms soon
// after. With erase, what the user kept here is deleted too.
func (s *Service) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	err := s.changeDevices(ctx, user, func(tx *store.Tx, tell changed) error {
		if err := tx.Users.Deactivate(user, erase); err != nil {
			return err
		}
		if err := s.removeAllDevices(tx, user, "", tell); err != nil {
			return err
		}
		if err := tx.Passes.DeleteUser(user); err != nil {
			return err
		}
		if erase {
			if err := s.erase(tx, user); err != nil {
				return err
			}
		}
		return tx.Errands.Add(user, errandLeave)
	})
	if err != nil {
		return fmt.Errorf("deactivate an account: %w", err)
	}
	s.wakeErrands()
	return nil
}

func (s *Service) erase(tx *store.Tx, user id.UserID) error {
	profile, err := tx.Profiles.Get(user)
	if err != nil {
		return err
	}
	for field := range profile {
		if _, err := tx.Profiles.Delete(user, field); err != nil {
			return err
		}
	}
	if s.Erased != nil {
		if err := s.Erased(tx, user); err != nil {
			return err
		}
	}
	return tx.AccountData.DeleteUser(user)
}

// SetAdmin makes a user an administrator of the server, or no longer. Open sessions notice it within half a minute.
func (s *Service) SetAdmin(ctx context.Context, user id.UserID, admin bool) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		u, ok, err := tx.Users.Get(user)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("user: %w", ErrNotFound)
		case admin && u.Deactivated:
			return ErrDeactivated
		case admin:
			if err := tx.Passes.DeleteBootstrap(); err != nil {
				return err
			}
		}
		return tx.Users.SetAdmin(user, admin)
	})
}
