//go:build !unix

package vault

import (
	"fmt"
	"os"
)

// permissionsCount is false where files have no permission bits for others.
const permissionsCount = false

// lock holds the lock file open; it can be removed, and so taken over, only when nobody holds it.
func lock(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, ErrLocked
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the vault: %w", err)
	}
	return f, nil
}

func syncDir(string) error { return nil }
