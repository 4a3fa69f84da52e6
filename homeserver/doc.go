// Package homeserver is the composition root: New builds every part of a server top to bottom by filling
// fields, Run serves until its context ends, Close puts everything away.
//
// The command line calls it, and tests through hstest. Wiring is all that it does: what a part decides is that
// part's own.
package homeserver
