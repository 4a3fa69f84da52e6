// Package config is the server's configuration, typed and checked.
//
// Load reads it in rising order from the built-in defaults, a YAML file, SECURECOMM_* variables and
// command-line flags. What it returns is complete and valid: nobody after it parses a duration or asks
// whether a key was set. Sample documents every key and is the only list of them for people; the struct
// Config is the only list for the program, and a test keeps the two equal.
//
// The command line calls it and hands the result to the composition root. It is the only package that
// knows viper. It must not know any part of the server: of the project it imports homeserver/id alone,
// so that a server's name is checked by the one grammar and carried as its own type.
package config
