package homeserver_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	modulePath       = "github.com/securecomm/securecomm"
	maxFileLines     = 600
	maxFunctionLines = 100
)

var topFolders = []string{
	"bin", "cli", "clientapi", "config", "deployments", "e2ee", "federation", "homeserver", "migrations",
}

var namesWithoutMeaning = []string{
	"base", "common", "helper", "helpers", "lib", "misc", "model", "models", "shared", "types", "util", "utils",
}

// openTask matches a note of work left over. The second group is its issue, as in (#12).
var openTask = regexp.MustCompile(`\b(TODO|FIXME)\b(\(#\d+\))?`)

// file is one parsed Go file of the module.
type file struct {
	pkg   string // folder below the module's root, with slashes
	name  string
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

func (f *file) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

func (f *file) imports() (paths []string) {
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

func (f *file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", path.Join(f.pkg, f.name), f.fset.Position(n.Pos()).Line)
}

// checks are the rules that one file can break, by name.
var checks = map[string]func(*file) []string{
	"known":     checkKnown,
	"imports":   checkImports,
	"names":     checkNames,
	"sizes":     checkSizes,
	"init":      checkInit,
	"sleep":     checkSleep,
	"clock":     checkClock,
	"open task": checkOpenTasks,
}

func TestStyle(t *testing.T) {
	root := ".."
	files := parseModule(t, root)
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			seen := map[string]bool{}
			for _, f := range files {
				for _, fault := range check(f) {
					if !seen[fault] {
						t.Error(fault)
					}
					seen[fault] = true
				}
			}
		})
	}
	t.Run("package docs", func(t *testing.T) {
		for _, fault := range checkDocs(files) {
			t.Error(fault)
		}
	})
	t.Run("top folders", func(t *testing.T) {
		entries, err := os.ReadDir(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(topFolders, e.Name()) {
				t.Errorf("the top-level folder %s is not of the design", e.Name())
			}
		}
	})
}

func parseModule(t *testing.T, root string) (files []*file) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(d.Name(), ".go") {
			return nil
		}
		source, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(folder), d.Name(), source)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("found only %d Go files below %s", len(files), root)
	}
	return files
}

func parse(pkg, name string, source []byte) (*file, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &file{pkg: pkg, name: name, lines: strings.Count(string(source), "\n"), fset: fset, ast: tree}, nil
}

func checkNames(f *file) []string {
	name := strings.TrimSuffix(f.ast.Name.Name, "_test")
	if slices.Contains(namesWithoutMeaning, name) {
		return []string{f.pkg + ": the package name " + name + " says nothing"}
	}
	return nil
}

func checkSizes(f *file) (faults []string) {
	if f.lines > maxFileLines {
		faults = append(faults, fmt.Sprintf("%s has %d lines, more than %d", path.Join(f.pkg, f.name), f.lines, maxFileLines))
	}
	for _, decl := range f.ast.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
		if lines > maxFunctionLines {
			faults = append(faults, fmt.Sprintf("%s: %s has %d lines, more than %d", f.at(fn), fn.Name.Name, lines, maxFunctionLines))
		}
	}
	return faults
}

func checkInit(f *file) (faults []string) {
	for _, decl := range f.ast.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			faults = append(faults, f.at(fn)+": init() hides who calls whom")
		}
	}
	return faults
}

// checkSleep finds sleeping tests. In a synctest bubble, sleeping only moves the clock.
func checkSleep(f *file) (faults []string) {
	if !f.isTest() {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isCall(call, "synctest", "Test") {
			return false
		}
		if call, ok := n.(*ast.CallExpr); ok && isCall(call, "time", "Sleep") {
			faults = append(faults, f.at(call)+": a test sleeps; use synctest, a channel or a context")
		}
		return true
	})
	return faults
}

func checkClock(f *file) (faults []string) {
	if f.isTest() || !slices.Contains(pure, f.pkg) {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && (isCall(call, "time", "Now") || isCall(call, "time", "Since")) {
			faults = append(faults, f.at(call)+": the core knows no clock")
		}
		return true
	})
	return faults
}

func isCall(call *ast.CallExpr, pkg, name string) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func checkOpenTasks(f *file) (faults []string) {
	for _, group := range f.ast.Comments {
		for _, match := range openTask.FindAllStringSubmatch(group.Text(), -1) {
			if match[2] == "" {
				faults = append(faults, f.at(group)+": "+match[1]+" without the number of its issue")
			}
		}
	}
	return faults
}

// checkDocs finds packages that do not say what they are for.
func checkDocs(files []*file) (faults []string) {
	documented := map[string]bool{}
	for _, f := range files {
		if f.isTest() {
			continue
		}
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "" // commands begin with their own name
		}
		documented[f.pkg] = documented[f.pkg] || f.ast.Doc != nil && strings.HasPrefix(f.ast.Doc.Text(), want)
	}
	for pkg, ok := range documented {
		if !ok {
			faults = append(faults, pkg+" has no package comment")
		}
	}
	slices.Sort(faults)
	return faults
}

// TestStyleChecksFind shows each check a file that breaks its rule, and one that does not.
func TestStyleChecksFind(t *testing.T) {
	long := "package x\nfunc f() {" + strings.Repeat("\n", maxFunctionLines) + "}\n"
	tests := []struct {
		check, pkg, name, source string
		faults                   int
	}{
		{"known", "homeserver/new", "a.go", "package new_", 1},
		{"known", "e2ee/olm", "a.go", "package olm", 0},
		{"known", "homeserver/roomtest", "a.go", "package roomtest", 0},
		{"imports", "homeserver/hstest", "a.go", `package hstest; import "` + modulePath + `/homeserver/store/storetest"`, 0},
		{"imports", "homeserver/id", "a.go", `package id; import "` + modulePath + `/homeserver/event"`, 1},
		{"imports", "homeserver/event", "a.go", `package event; import "` + modulePath + `/homeserver/id"`, 0},
		{"imports", "clientapi", "a.go", `package clientapi; import "` + modulePath + `/federation"`, 1},
		{"imports", "config", "a.go", `package config; import "` + modulePath + `/homeserver/store"`, 1},
		{"imports", "cli", "a.go", `package cli; import "` + modulePath + `/homeserver/hstest"`, 1},
		{"imports", "cli", "a_test.go", `package cli; import "` + modulePath + `/homeserver/hstest"`, 0},
		{"imports", "homeserver/room", "a.go", `package room; import "github.com/uptrace/bun"`, 1},
		{"imports", "homeserver/room", "a_test.go", `package room; import "github.com/uptrace/bun/dialect/pgdialect"`, 1},
		{"imports", "homeserver/store", "a.go", `package store; import "github.com/uptrace/bun"`, 0},
		{"imports", "homeserver/event", "a.go", `package event; import "context"`, 1},
		{"imports", "homeserver/event", "a.go", `package event; import "github.com/google/go-cmp/cmp"`, 1},
		{"imports", "homeserver/event", "a_test.go", `package event; import "github.com/google/go-cmp/cmp"`, 0},
		{"names", "homeserver/x", "a.go", "package util", 1},
		{"sizes", "config", "a.go", long, 1},
		{"sizes", "config", "a.go", strings.Replace(long, "\n}", "}", 1), 0},
		{"sizes", "config", "a.go", "package x" + strings.Repeat("\n", maxFileLines+1), 1},
		{"init", "config", "a.go", "package x; func init() {}", 1},
		{"init", "config", "a.go", "package x; type y int; func (y) init() {}", 0},
		{"sleep", "config", "a_test.go", `package x; func f() { time.Sleep(1) }`, 1},
		{"sleep", "config", "a_test.go", `package x; func f() { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }`, 0},
		{"clock", "homeserver/event", "a.go", `package x; var now = time.Now()`, 1},
		{"clock", "homeserver/room", "a.go", `package x; var now = time.Now()`, 0},
		{"open task", "config", "a.go", "package x // TO" + "DO: later", 1},
		{"open task", "config", "a.go", "package x // TO" + "DO(#12): later", 0},
	}
	for _, test := range tests {
		f, err := parse(test.pkg, test.name, []byte(test.source))
		if err != nil {
			t.Fatal(err)
		}
		if faults := checks[test.check](f); len(faults) != test.faults {
			t.Errorf("%s of %s/%s: found %v, want %d faults in\n%s", test.check, test.pkg, test.name, faults, test.faults, test.source)
		}
	}
	undocumented, err := parse("config", "a.go", []byte("// Something else.\npackage config"))
	if err != nil {
		t.Fatal(err)
	}
	if len(checkDocs([]*file{undocumented})) != 1 {
		t.Error("a package without a comment is not found")
	}
}
