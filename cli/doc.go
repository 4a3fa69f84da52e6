// Package cli holds the commands of securecomm: the server's and the administrator's, and the terminal
// client's. Run is all that the main program calls.
//
// The client's commands share one pattern: open the profile (a folder that one process uses at a time, with
// everything in it encrypted), catch up with the server, do one thing, keep what changed. The stored sync
// position advances in the same write that keeps the encryption's state, so that a crash loses no key.
//
// The package decides what the user sees and what is refused (plaintext into an encrypted room). It knows
// nothing of how encryption works, which is e2ee's, nor of wire formats beyond contents of messages.
package cli
