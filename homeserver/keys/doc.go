// Package keys is the server's side of end-to-end encryption (Client-Server API, "End-to-End Encryption"
// and "Send-to-Device messaging"; Server-Server API, "Device Management"): identity keys of devices,
// one-time and fallback keys, cross-signing keys and signatures, lists of devices and their changes,
// messages to devices, and key backups.
//
// The client API and the federation API call it, and the sync engine reads what it wrote. All of it is
// opaque: the package sees public keys and ciphertexts only, and checks no more than whom a key is said to
// belong to and what cross-signing requires of the server. It knows no rooms but for who shares one with
// whom, and no HTTP: other servers are reached through Remote.
//
// The list of a remote user's devices is cached only while a local user has been in a room with that user
// without a gap since it was fetched, so that joining and leaving needs no hooks here: see
// store.DeviceLists.Cached.
package keys
