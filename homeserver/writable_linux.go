package homeserver

import (
	"fmt"
	"os"
	"slices"
	"syscall"
)

// writable says what keeps this process from making files in a folder, without making one.
func writable(folder string) error {
	const search, write = 1, 2
	if err := syscall.Access(folder, search|write); err != nil {
		return &os.PathError{Op: "write into", Path: folder, Err: err}
	}
	const proc, sys = 0x9fa0, 0x62656572 // linux/magic.h
	var in syscall.Statfs_t
	if err := syscall.Statfs(folder, &in); err == nil && slices.Contains([]int64{proc, sys}, int64(in.Type)) {
		return fmt.Errorf("%s is the kernel's own and holds no files", folder)
	}
	return nil
}
