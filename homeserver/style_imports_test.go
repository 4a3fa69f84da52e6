package homeserver_test

import (
	"fmt"
	"slices"
	"strings"
)

// layer is a package, or with a slash at its end a tree of packages, in the order of the design: each may
// import those above it in the list. Where only is given, it may import no others of the module.
type layer struct {
	path string
	only []string
}

// layers is the one table of import directions. A new package gets its line here.
var layers = []layer{
	{path: "homeserver/id"},
	{path: "homeserver/glob", only: []string{}},
	{path: "homeserver/canonicaljson"},
	{path: "homeserver/sign"},
	{path: "homeserver/event"},
	{path: "homeserver/eventauth"},
	{path: "homeserver/stateres"},
	{path: "homeserver/pushrule"},
	{path: "homeserver/load", only: []string{}},
	{path: "homeserver/peers", only: []string{"homeserver/id"}},
	{path: "homeserver/filter", only: []string{"homeserver/id"}},
	{path: "migrations", only: []string{}},
	{path: "homeserver/stream", only: []string{"homeserver/id"}},
	{path: "homeserver/store"},
	{path: "homeserver/visibility", only: []string{"homeserver/id", "homeserver/event", "homeserver/store", "homeserver/stream"}},
	{path: "homeserver/room"},
	{path: "homeserver/timeline"},
	{path: "homeserver/account"},
	{path: "homeserver/keys"},
	{path: "homeserver/directory"},
	{path: "homeserver/ephemeral"},
	{path: "homeserver/media"},
	{path: "homeserver/push"},
	{path: "homeserver/appservice"},
	{path: "homeserver/clientsync"},
	{path: "federation/xmatrix", only: signing},
	{path: "federation/discovery", only: signing},
	{path: "federation/client", only: append(signing, "homeserver/event", "homeserver/load", "federation/")},
	{path: "federation/keyring", only: append(signing, "homeserver/event", "homeserver/store", "federation/")},
	{path: "federation/sender", only: append(signing, "homeserver/event", "homeserver/load", "homeserver/store", "homeserver/stream", "federation/")},
	{path: "federation"},
	{path: "clientapi"},
	{path: "config", only: []string{"homeserver/id"}},
	{path: "homeserver"},
	{path: "homeserver/interop", only: []string{}},
	{path: "e2ee/", only: []string{"homeserver/id", "homeserver/canonicaljson", "e2ee/"}},
	{path: "e2ee", only: []string{"homeserver/id", "homeserver/canonicaljson", "e2ee/"}},
	{path: "cli/client", only: []string{"homeserver/id"}},
	{path: "cli", only: []string{"homeserver", "homeserver/id", "config", "e2ee", "e2ee/", "cli/client"}},
	{path: "cli/securecomm", only: []string{"cli"}},
	{path: "cli/demo", only: []string{"cli"}},
}

var signing = []string{"homeserver/id", "homeserver/canonicaljson", "homeserver/sign"}

// never are imports that the table's order would allow.
var never = map[string][]string{
	"clientapi": {"federation", "federation/"},
}

// owners say which packages may import what is not of the module. Tests keep to it as well.
var owners = map[string][]string{
	"github.com/uptrace/bun":   {"homeserver/store", "homeserver/store/", "migrations"},
	"github.com/spf13/viper":   {"config"},
	"github.com/labstack/echo": {"clientapi", "federation"},
}

// ownersOutsideTests do not bind tests, which may use a driver or a websocket to look at a server from
// outside. An entry without owners is for tests only.
var ownersOutsideTests = map[string][]string{
	"github.com/jackc/pgx":                       {"homeserver/store", "homeserver/store/"},
	"modernc.org/sqlite":                         {"homeserver/store", "homeserver/store/"},
	"database/sql":                               {"homeserver/store", "homeserver/store/", "migrations"},
	"github.com/gorilla/websocket":               {"clientapi"},
	"github.com/spf13/cobra":                     {"cli", "cli/"},
	"charm.land/bubbletea":                       {"cli", "cli/"},
	"github.com/matrix-org/gomatrixserverlib":    {},
	"github.com/google/go-cmp":                   {},
	"pgregory.net/rapid":                         {},
	"github.com/rogpeppe/go-internal/testscript": {},
}

// pure are the packages of values in, values out.
var pure = []string{
	"homeserver/id", "homeserver/glob", "homeserver/canonicaljson", "homeserver/sign", "homeserver/event",
	"homeserver/eventauth", "homeserver/stateres", "homeserver/pushrule", "homeserver/filter",
}

var impureImports = []string{"context", "log", "log/slog", "database/sql", "net/http"}

// covers says whether a path of the tables means the package.
func covers(path, pkg string) bool {
	return path == pkg || strings.HasSuffix(path, "/") && strings.HasPrefix(pkg, path)
}

func coveredBy(paths []string, pkg string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return covers(path, pkg) })
}

// isTestHelper says whether the package is named as net/http/httptest is. Only tests and others of its kind
// may import it, and it may import what it likes.
func isTestHelper(pkg string) bool { return strings.HasSuffix(pkg, "test") }

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l layer) bool { return covers(l.path, pkg) })
}

func checkImports(f *file) (faults []string) {
	for _, imported := range f.imports() {
		own, isOwn := strings.CutPrefix(imported, modulePath+"/")
		switch {
		case isOwn && f.isTest():
		case isOwn:
			faults = append(faults, checkDirection(f.pkg, own)...)
		case !f.isTest() && slices.Contains(pure, f.pkg) && slices.Contains(impureImports, imported):
			faults = append(faults, fmt.Sprintf("%s imports %s, but the core is pure", f.pkg, imported))
		}
		faults = append(faults, checkOwner(f.pkg, imported, owners)...)
		if !f.isTest() && !isTestHelper(f.pkg) {
			faults = append(faults, checkOwner(f.pkg, imported, ownersOutsideTests)...)
		}
	}
	return faults
}

func checkOwner(pkg, imported string, table map[string][]string) (faults []string) {
	for prefix, allowed := range table {
		if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && !coveredBy(allowed, pkg) {
			faults = append(faults, fmt.Sprintf("%s imports %s, which is for %v", pkg, imported, allowed))
		}
	}
	return faults
}

func checkDirection(from, to string) []string {
	if isTestHelper(from) {
		return nil
	}
	if isTestHelper(to) {
		return []string{fmt.Sprintf("%s imports %s, which is for tests", from, to)}
	}
	importer, imported := layerOf(from), layerOf(to)
	if importer < 0 || imported < 0 {
		return nil // checkKnown says so
	}
	only := layers[importer].only
	switch {
	case importer < imported, coveredBy(never[from], to):
		return []string{fmt.Sprintf("%s imports %s: the wrong way, see layers", from, to)}
	case only != nil && !coveredBy(only, to):
		return []string{fmt.Sprintf("%s imports %s, but may import only %v of the module", from, to, only)}
	}
	return nil
}

func checkKnown(f *file) []string {
	if layerOf(f.pkg) < 0 && !isTestHelper(f.pkg) {
		return []string{f.pkg + " is not in layers: give it its place there"}
	}
	return nil
}
