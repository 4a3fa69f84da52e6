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

const (
	// deviceStep is how many devices are deleted in one update.
	deviceStep = 50
	// tokenStep is of how many of the devices that a request names one update removes the tokens.
	tokenStep = 500
)

// DeleteDevices logs devices of a user out. Unknown ones are no error. Others' updates come in between.
func (s *Service) DeleteDevices(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	for step := range slices.Chunk(devices, tokenStep) {
		err := s.DB.Update(ctx, func(tx *store.Tx) error {
			gone, err := tx.Tokens.DeleteDevices(user, step)
			return errors.Join(err, s.loggedOut(tx, user, gone))
		})
		if err != nil {
			return fmt.Errorf("delete devices: %w", err)
		}
	}
	s.deleteLoggedOut(ctx, user)
	return nil
}

// Logout ends the session of a requester.
func (s *Service) Logout(ctx context.Context, r Requester) error {
	return s.DeleteDevices(ctx, r.User, r.Device)
}

// LogoutAll ends all sessions of a user, also those that would begin with a login token that was handed out.
func (s *Service) LogoutAll(ctx context.Context, user id.UserID) error {
	if err := s.DB.Update(ctx, func(tx *store.Tx) error { return s.logoutOthers(tx, user, "") }); err != nil {
		return fmt.Errorf("log out everywhere: %w", err)
	}
	s.deleteLoggedOut(ctx, user)
	return nil
}

// logoutOthers removes all tokens of a user but those of one device.
func (s *Service) logoutOthers(tx *store.Tx, user id.UserID, but id.DeviceID) error {
	gone, err := tx.Tokens.DeleteOthers(user, but)
	if err != nil {
		return err
	}
	return errors.Join(s.loggedOut(tx, user, gone), tx.Passes.DeleteUser(user))
}

// loggedOut is called with the tokens of devices that an update has removed. From then on the devices are logged out. They are
// deleted behind it some at a time, with all that hangs on them, for others wait for an update; deleteLoggedOut does that, and
// the errand if that is interrupted.
func (s *Service) loggedOut(tx *store.Tx, user id.UserID, tokens [][]byte) error {
	if len(tokens) == 0 {
		return nil
	}
	tx.AfterCommit(func() { s.sessions.forget(tokens) })
	return tx.Errands.Add(user, errandDevices)
}

// deleteLoggedOut deletes the devices of a user that are logged out. What goes wrong is left to the errand.
func (s *Service) deleteLoggedOut(ctx context.Context, user id.UserID) {
	if err := s.finishLogout(ctx, user); err != nil && ctx.Err() == nil {
		s.Log.Warn("cannot delete all devices that are logged out: it is tried again", "user", user, "err", err)
	}
	s.wakeErrands()
}

// finishLogout deletes those devices of a user that are logged out, or of these the ones named.
func (s *Service) finishLogout(ctx context.Context, user id.UserID, only ...id.DeviceID) error {
	var devices []id.DeviceID
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		devices, err = tx.Devices.LoggedOut(user)
		return err
	})
	if len(only) > 0 {
		devices = slices.DeleteFunc(devices, func(d id.DeviceID) bool { return !slices.Contains(only, d) })
	}
	if err != nil || len(devices) == 0 {
		return err
	}
	tell, err := s.DevicesChanging(ctx, user)
	if err != nil {
		return err
	}
	for step := range slices.Chunk(devices, deviceStep) {
		if s.DevicesEnding != nil {
			if err := s.DevicesEnding(ctx, user, step); err != nil {
				return err
			}
		}
		if err := s.DB.Update(ctx, func(tx *store.Tx) error { return deleteDevices(tx, user, step, tell) }); err != nil {
			return err
		}
	}
	return nil
}

// deleteDevices deletes those of some devices that are logged out still: somebody may have logged in as one of them.
func deleteDevices(tx *store.Tx, user id.UserID, devices []id.DeviceID, tell changed) error {
	deleted, err := tx.Devices.DeleteLoggedOut(user, devices)
	if err != nil || len(deleted) == 0 {
		return err
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
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
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
			return s.logoutOthers(tx, r.User, r.Device)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change a password: %w", err)
	}
	if logout {
		s.deleteLoggedOut(ctx, r.User)
	}
	return nil
}

// Deactivate closes an account for ever: all devices are logged out, and the user leaves all rooms soon
// after. With erase, what the user kept here is deleted too.
func (s *Service) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		err := errors.Join(tx.Users.Deactivate(user, erase), s.logoutOthers(tx, user, ""), tx.Errands.Add(user, errandLeave))
		if err == nil && erase {
			err = s.erase(tx, user)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("deactivate an account: %w", err)
	}
	s.deleteLoggedOut(ctx, user)
	return nil
}

// erase deletes what others may see of a user; the account data, which may be much, is deleted behind it.
func (s *Service) erase(tx *store.Tx, user id.UserID) error {
	if s.Erased != nil {
		if err := s.Erased(tx, user); err != nil {
			return err
		}
	}
	return errors.Join(tx.Profiles.DeleteUser(user), tx.Errands.Add(user, errandErase))
}

// eraseData deletes the account data of a user who was erased: none comes any longer.
func (s *Service) eraseData(ctx context.Context, user id.UserID) error {
	err := s.DB.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.AccountData.DeleteSome(user, limit) })
	if err == nil {
		err = s.DB.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Media.ForgetAsker(user, limit) })
	}
	if err != nil {
		return fmt.Errorf("erase account data: %w", err)
	}
	return nil
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
