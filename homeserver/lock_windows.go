package homeserver

import "os"

// lock holds a lock file open. The system lets nobody remove a file that is held open like this, and so what can be
// removed is of a process that has ended.
func lock(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, ErrInUse
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}
