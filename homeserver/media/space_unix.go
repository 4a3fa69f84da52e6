//go:build linux || darwin

package media

import "syscall"

// space is how many bytes of the disk with a folder are left for this process.
func space(folder string) (int64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(folder, &disk); err != nil {
		return 0, err
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil
}
