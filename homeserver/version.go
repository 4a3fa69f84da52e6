package homeserver

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime/debug"
	"sync"
)

// Version is what the server says of its software.
const Version = "0.1.0"

// Build tells builds of one version apart: the revision that the program was built from if it knows that, else the
// beginning of its own SHA-256. It is empty if the program's file can't be read.
func Build() string {
	const length = 12
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= length {
				return s.Value[:length]
			}
		}
	}
	hash := ownHash()
	return hash[:min(len(hash), length)]
}

// ownHash reads the program's file once for all servers of the process; later the file may be that of another build.
var ownHash = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return ""
	}
	return hex.EncodeToString(hash.Sum(nil))
})
