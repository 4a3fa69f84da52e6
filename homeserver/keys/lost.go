package keys

import (
	"context"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Lost is for a device that has seen a life of the database which was lost: one-time keys of it that are here may have been
// given out then, and nobody can use one twice. They go, and its fallback keys count as used, so that its client sends new
// ones (Client-Server API, "One-time and fallback keys").
func (s *Service) Lost(ctx context.Context, user id.UserID, device id.DeviceID) error {
	if device == "" {
		return nil
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.OneTimeKeys.UseUp(user, device) })
	if err != nil {
		return fmt.Errorf("use up one-time keys: %w", err)
	}
	return nil
}
