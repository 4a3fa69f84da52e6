// Package megolm is the Megolm group ratchet: one device encrypts for a room, and everyone whom it gave
// the session key reads (Megolm specification, version 1 with 8-byte authentication codes).
//
// Its caller is e2ee. Sessions marshal to JSON that holds secrets; who stores them encrypts them, and
// stores an outbound session before its message leaves. Replays are for the caller to detect: Decrypt
// tells the index. The package knows nothing of rooms, users or storage.
package megolm
