package config

import (
	"reflect"

	"github.com/spf13/pflag"
)

// shownFlags are those that help lists. All other keys have a flag too, but a page of them helps nobody.
var shownFlags = map[string]string{
	"dev":               "try it out: this machine only, open registration, data in .securecomm-dev",
	"server.name":       "the part of user and room names after the colon",
	"server.data_dir":   "folder of the signing key, the embedded database and media",
	"listen.client":     "address of the client API",
	"listen.federation": "address of the federation API; empty serves it with the client API",
	"database.url":      "postgres:// or sqlite:// URL; better in the file or a variable if it has a password",
	"log.level":         "debug, info, warn or error",
	"log.format":        "text or json",
}

// AddFlags adds a flag for every key, named like it, for Load to read. Secrets have none: other users of
// the machine can see a command line.
func AddFlags(flags *pflag.FlagSet) {
	for _, k := range keysOf(Default()) {
		if k.secret() {
			continue
		}
		usage, shown := shownFlags[k.name]
		if k.field.Kind() == reflect.Bool {
			flags.Bool(k.name, false, usage)
		} else {
			flags.String(k.name, "", usage)
		}
		flags.Lookup(k.name).Hidden = !shown
	}
}
