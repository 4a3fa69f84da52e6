// Package vault keeps a client's secrets on disk: one file of key-value records, encrypted under a
// passphrase (Argon2id) or a key file, with transactions that a crash leaves whole or undone.
//
// Its callers are e2ee and the terminal client. It knows nothing of what it stores.
//
// The file is a header followed by frames. The header holds a random master key, sealed with
// XChaCha20-Poly1305 under the key that comes from the passphrase or the key file. Each frame is one
// transaction, sealed under the master key together with its number, so that frames can't be exchanged,
// repeated or left out; a checksum over its length and number stands before it. A transaction is on disk (fsync) before Update returns. Frames that only replace
// older ones are dropped by writing the file anew beside the old one and renaming it. All records are
// also in memory: a vault is meant for megabytes.
//
// Only the last frame can be one that a crash cut off: it is taken away, kept aside beside the vault, and Recovered
// tells. Any other damage is ErrCorrupt, and the file is left as it is.
//
// What the file can't tell is whether somebody put back an older copy of the whole of it; e2ee notices some of that.
package vault
