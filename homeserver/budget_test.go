package homeserver_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
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

// TestSendBudget counts what one PUT /send runs through: by the coverage counters of the real program, as what
// runs again with every one of a hundred more of them. It builds that program, so it runs only when asked for.
func TestSendBudget(t *testing.T) {
	if os.Getenv("SECURECOMM_TEST_BUDGET") == "" {
		t.Skip("SECURECOMM_TEST_BUDGET is not set; make budget sets it")
	}
	program := filepath.Join(t.TempDir(), "securecomm")
	build := exec.Command("go", "build", "-buildvcs=false", "-cover", "-covermode=atomic",
		"-coverpkg=./homeserver/...,./clientapi/...,./federation/...,./cli/securecomm", "-o", program, "./cli/securecomm")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	few, many := countBlocks(t, program, 10), countBlocks(t, program, 110)
	functions := map[string]bool{}
	files := map[string]bool{}
	packages := map[string]bool{}
	for block, n := range many {
		if n-few[block] < 95 {
			continue
		}
		file, place, _ := strings.Cut(block, ":")
		file = strings.TrimPrefix(file, "github.com/securecomm/securecomm/")
		functions[path.Dir(file)+"."+functionAt(t, file, place)] = true
		files[file], packages[path.Dir(file)] = true, true
	}
	var names []string
	for name := range functions {
		names = append(names, name)
	}
	slices.Sort(names)
	t.Logf("one PUT /send runs %d functions in %d files of %d packages:\n%s", len(functions), len(files), len(packages), strings.Join(names, "\n"))
	if len(functions) == 0 || len(functions) > maxFunctions || len(files) > maxFiles || len(packages) > maxPackages {
		t.Errorf("over the budget of %d functions, %d files, %d packages", maxFunctions, maxFiles, maxPackages)
	}
}

// countBlocks runs the program, has it take a number of messages, and returns how often each block ran.
func countBlocks(t *testing.T, program string, messages int) map[string]int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	cmd := exec.Command(program, "serve", "--dev", "--listen.client", address, "--server.data_dir", t.TempDir(), "--server.base_url", "http://"+address)
	cmd.Env = append(os.Environ(), "GOCOVERDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	u := hstest.At(t, "http://"+address)
	for tries := 0; ; tries++ {
		answer, err := http.Get("http://" + address + "/health")
		if err == nil {
			answer.Body.Close()
			break
		}
		if tries > 100_000 {
			t.Fatal(err)
		}
	}
	alice := u.Register("alice")
	room := alice.CreateRoom(map[string]any{"preset": "private_chat"})
	for range messages {
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	profile := filepath.Join(dir, "profile.txt")
	if out, err := exec.Command("go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+profile).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		if n, err := strconv.Atoi(fields[2]); err == nil {
			counts[fields[0]] += n
		}
	}
	return counts
}

// functionAt names the function that a block stands in, given as "line.column,line.column". A function in a function
// counts as part of the outer one.
func functionAt(t *testing.T, file, place string) string {
	t.Helper()
	start, _, _ := strings.Cut(place, ".")
	line, err := strconv.Atoi(start)
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, filepath.Join("..", filepath.FromSlash(file)), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && set.Position(f.Pos()).Line <= line && line <= set.Position(f.End()).Line {
			return fmt.Sprint(receiver(f), f.Name.Name)
		}
	}
	return file + ":" + start
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}
