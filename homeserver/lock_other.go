//go:build !unix

package homeserver

import "os"

// lock holds a lock file open; it can be removed, and so taken over, only when nobody holds it.
func lock(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, ErrInUse
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}
