//go:build unix

package homeserver_test

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/store"
)

// killedData is a variable of the process that is killed: its data folder.
const killedData = "HSTEST_KILLED_DATA"

// TestBackupBesideLog has backups be restored as anybody does it, after the server was killed.
func TestBackupBesideLog(t *testing.T) {
	if dir := os.Getenv(killedData); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	at := t.TempDir()
	run := func(command string, args ...string) {
		cmd := exec.CommandContext(t.Context(), command, args...)
		cmd.Dir = at
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", command, args, err, out)
		}
	}
	c := config.Dev()
	c.Server.Name, c.Server.DataDir, c.Federation.Enabled = "one.test", filepath.Join(at, "data"), false
	path := filepath.Join(at, "data/securecomm.db")
	if err := open(c); err != nil {
		t.Fatal(err)
	}
	run("cp", "-r", "data", "stopped")
	runAndKill(t, c.Server.DataDir)
	run("cp", "-r", "data", "killed")
	for range 2 { // each start is one after a kill
		runAndKill(t, c.Server.DataDir)
	}
	run("cp", "-r", "data", "left")
	for name, how := range map[string]struct {
		restore []string
		refused bool
	}{
		"nothing is restored":                         {},
		"the file alone":                              {[]string{"cp stopped/securecomm.db data/"}, true},
		"the file alone, in place of the one there":   {[]string{"cp stopped/securecomm.db new", "mv new data/securecomm.db"}, true},
		"all that is in the backup":                   {[]string{"cp -r stopped/. data/"}, true},
		"the file without the log":                    {[]string{"cp stopped/securecomm.db data/", "rm data/securecomm.db-wal data/securecomm.db-shm"}, false},
		"the folder in place of the one there":        {[]string{"rm -r data", "cp -r stopped data"}, false},
		"all that is in the backup of a killed one":   {[]string{"cp -r killed/. data/"}, false},
		"the file and the log of a killed one":        {[]string{"cp killed/securecomm.db killed/securecomm.db-wal data/"}, true},
		"the file and the log, without what tells it": {[]string{"cp killed/securecomm.db killed/securecomm.db-wal data/", "rm data/securecomm.db-wal-of"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			run("rm", "-r", "data")
			run("cp", "-r", "left", "data")
			for _, command := range how.restore {
				words := strings.Fields(command)
				run(words[0], words[1:]...)
			}
			before := contents(t, c.Server.DataDir)
			_, told := homeserver.Check(t.Context(), c)
			if errors.Is(told, store.ErrOtherLog) != how.refused || (told != nil) != how.refused {
				t.Errorf("check says %v", told)
			}
			after := contents(t, c.Server.DataDir)
			delete(before, path+"-shm") // the log's index, which is rebuilt
			delete(after, path+"-shm")
			if !maps.Equal(before, after) {
				t.Errorf("looking at it changed it: %v, %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
			if how.refused {
				for range 2 {
					if err := open(c); !errors.Is(err, store.ErrOtherLog) || !strings.Contains(err.Error(), path+"-wal and "+path+"-shm") {
						t.Fatalf("a start beside another log: %v", err)
					}
				}
				if !strings.Contains(how.restore[0], "-wal") { // as the error says
					run("rm", "data/securecomm.db-wal", "data/securecomm.db-shm")
				} else {
					run("rm", "data/securecomm.db-wal-of")
				}
			}
			for range 2 {
				if err := open(c); err != nil {
					t.Errorf("a start: %v", err)
				}
			}
			checkWhole(t, path)
			if left, _ := filepath.Glob(path + "-*"); len(left) > 0 {
				t.Errorf("after a stop there are %q", left)
			}
		})
	}
}

// writeUntilKilled is the process that is killed.
func writeUntilKilled(t *testing.T, dir string) {
	s := hstest.New(t, func(c *config.Config) { c.Server.DataDir = dir })
	alice := s.Register(fmt.Sprint("alice", os.Getpid()))
	room := alice.CreateRoom(nil)
	for n := range 40 {
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": strings.Repeat("text", 100*n)})
	}
	fmt.Println("written")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func runAndKill(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBackupBesideLog$")
	cmd.Env = append(os.Environ(), killedData+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // which ends with this process
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for scan := bufio.NewScanner(out); !slices.Contains(lines, "written") && scan.Scan(); {
		lines = append(lines, scan.Text())
	}
	err = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if info, statErr := os.Stat(filepath.Join(dir, "securecomm.db-wal")); err != nil || statErr != nil || info.Size() == 0 {
		t.Fatalf("it did not leave a log: %v, %v\n%s", err, statErr, strings.Join(lines, "\n"))
	}
}

func checkWhole(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var whole string
	err = db.QueryRow(`PRAGMA integrity_check`).Scan(&whole)
	if err = errors.Join(err, db.Close()); err != nil || whole != "ok" {
		t.Errorf("the database: %v, %s", err, whole)
	}
}
