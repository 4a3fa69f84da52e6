package homeserver_test

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// The budget of one PUT /send.
const (
	maxFunctions = 80
	maxFiles     = 25
	maxPackages  = 12
)

// exactly is how often one PUT /send runs some functions.
var exactly = map[string]int{
	"homeserver/eventauth.Context.Authorize": 1, // one authorization
	"homeserver/event.Build":                 1,
	"homeserver/store.Events.insert":         1, // one stored copy of the event
	"homeserver/store.DB.transact":           1, // one transaction, for all who write at the time
	"homeserver/store.Tx.open":               0, // none besides to read
}

const (
	warmUp   = 10
	measured = 100
	slack    = 5
	bodySize = 16 << 10
)

// TestSendBudget counts what one PUT /send runs through, by the coverage counters of the real program: what runs
// again with each of a hundred more messages of an ordinary member of a room, on whatever goroutine. As in go tool
// cover, a function is a declared one, with the literals in it. What a reader's /sync runs belongs to that request.
// The test builds that program, so it runs only when asked for.
func TestSendBudget(t *testing.T) {
	if os.Getenv("SECURECOMM_TEST_BUDGET") == "" {
		t.Skip("SECURECOMM_TEST_BUDGET is not set; make budget sets it")
	}
	program := filepath.Join(t.TempDir(), "securecomm")
	build := exec.Command("go", "build", "-race=false", "-buildvcs=false", "-cover", "-covermode=atomic", "-coverpkg=./...", "-o", program, "./cli/securecomm")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	few, fewBytes := sendMessages(t, program, warmUp)
	many, manyBytes := sendMessages(t, program, warmUp+measured)
	var functions, names []string
	files, packages := map[string]bool{}, map[string]bool{}
	calls, code := map[string]int{}, source{}
	for b, n := range many {
		name, entry := code.function(t, b)
		if entry {
			calls[name] = n - few[b]
		}
		if n-few[b] >= measured-slack {
			functions = append(functions, name)
			files[b.file], packages[path.Dir(b.file)] = true, true
		}
	}
	slices.Sort(functions)
	names = slices.Compact(functions)
	t.Logf("one PUT /send runs %d functions in %d files of %d packages:\n%s", len(names), len(files), len(packages), strings.Join(names, "\n"))
	if len(names) == 0 || len(names) > maxFunctions || len(files) > maxFiles || len(packages) > maxPackages {
		t.Errorf("over the budget of %d functions, %d files, %d packages", maxFunctions, maxFiles, maxPackages)
	}
	for name, want := range exactly {
		// What the program does of itself when it starts may differ by a few.
		if n, ok := calls[name]; !ok || n < want*measured-slack || n > want*measured+slack {
			t.Errorf("%s ran %d times for %d messages, not %d times each", name, n, measured, want)
		}
	}
	// However the copies of a message were called: the data folder has room for one.
	if grown := manyBytes - fewBytes; grown > measured*bodySize*3/2 {
		t.Errorf("the data folder grew by %d bytes for %d messages of %d bytes", grown, measured, bodySize)
	}
}

// block is a piece of code that is counted.
type block struct {
	file         string // within the module
	line, column int
}

// address is where the program says that it listens.
var address = regexp.MustCompile(`msg=listening for=client address=(\S+)`)

// sendMessages runs the program and has it take a number of messages. It returns how often each block ran and how
// large the data folder is in the end.
func sendMessages(t *testing.T, program string, messages int) (map[block]int, int64) {
	t.Helper()
	counters, data := t.TempDir(), t.TempDir()
	cmd := exec.Command(program, "serve", "--dev", "--listen.client", "127.0.0.1:0", "--server.data_dir", data,
		"--limits.enabled", "--limits.message.per_user", "1000000/1s", "--log.format", "text")
	cmd.Env = append(os.Environ(), "GOCOVERDIR="+counters)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	log := bufio.NewScanner(stderr)
	var found []string
	for found == nil && log.Scan() {
		found = address.FindStringSubmatch(log.Text())
	}
	if found == nil {
		t.Fatal("the program does not listen")
	}
	u := hstest.At(t, "http://"+found[1])
	alice, bob := u.Register("alice"), u.Register("bob")
	room := alice.CreateRoom(map[string]any{"preset": "private_chat", "invite": []any{bob.ID}})
	bob.Must("POST", "/v3/join/"+string(room), nil, nil)
	for range messages {
		bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": strings.Repeat("hello ", bodySize/6)})
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for log.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return readCounters(t, counters), folderSize(t, data)
}

// readCounters reads how often each block ran.
func readCounters(t *testing.T, dir string) map[block]int {
	t.Helper()
	profile := filepath.Join(dir, "profile.txt")
	if out, err := exec.Command("go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+profile).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[block]int{}
	for line := range strings.Lines(string(text)) { // file:line.column,line.column statements count
		var b block
		var n int
		file, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(rest, "%d.%d", &b.line, &b.column); err != nil {
			continue // the first line
		}
		if n, err = strconv.Atoi(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:])); err != nil {
			t.Fatal(err)
		}
		b.file = strings.TrimPrefix(file, modulePath+"/")
		counts[b] += n
	}
	return counts
}

func folderSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// source knows the functions of files.
type source map[string][]function

type function struct {
	name     string
	from, to int
	entry    token.Position // of its body
}

// function names the function that a block stands in, and says whether it is where the function begins.
func (s source) function(t *testing.T, b block) (string, bool) {
	t.Helper()
	if _, ok := s[b.file]; !ok {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, filepath.Join("..", filepath.FromSlash(b.file)), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		s[b.file] = nil
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				s[b.file] = append(s[b.file], function{
					path.Dir(b.file) + "." + receiver(f) + f.Name.Name, set.Position(f.Pos()).Line, set.Position(f.End()).Line, set.Position(f.Body.Pos()),
				})
			}
		}
	}
	for _, f := range s[b.file] {
		if f.from <= b.line && b.line <= f.to {
			return f.name, b.line == f.entry.Line && b.column <= f.entry.Column+1
		}
	}
	return fmt.Sprintf("%s:%d", b.file, b.line), false
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}
