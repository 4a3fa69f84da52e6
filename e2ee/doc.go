// Package e2ee is the client's side of end-to-end encryption (Client-Server API, "End-to-End
// Encryption"): a Machine is the cryptographic half of one device. It holds the device's keys, knows other
// people's devices, encrypts and decrypts, and decides whom to trust.
//
// Its caller is the terminal client. The machine does no network: it makes the bodies of requests and
// takes the bodies of answers. It knows nothing of rooms' content, of HTTP, or of how a message is shown.
// It logs nothing.
//
// A client drives it like this. After logging in, and whenever there is something to upload:
//
//	KeysUpload -> POST /keys/upload -> MarkKeysUploaded
//
// With every /sync: ReceiveSync, which also keeps the sync token, then, whatever it made necessary:
//
//	UsersToQuery -> POST /keys/query -> ReceiveKeysQuery
//	KeysUpload, and every message of Outbox -> PUT /sendToDevice -> MarkSent
//
// Before it sends to an encrypted room, for the members who should be able to read it:
//
//	UsersToQuery(members) -> ... ; KeysToClaim(members) -> POST /keys/claim -> ReceiveKeysClaim
//	ShareRoomKey ; Outbox -> ... ; EncryptRoomEvent -> PUT /send
//
// Keys that a device lacks it asks the user's other verified devices for, and answers them when they ask: those of
// messages, of the user's identity and of the key backup. The messages of verifications (package verify) it hands on.
//
// Everything is in a vault. Every method that changes something is one transaction of it: when the method
// has returned, the change is on disk, so that no ratchet ever falls back behind a message that left.
// Messages to devices are in the vault too until MarkSent; they are sent again with the same transaction
// id after a crash.
//
// A vault that was put back from an older copy is noticed when a message of one of its own sessions is decrypted that is
// from further on than the copy knows (Decrypted.PutBack): all sessions begin anew then. Until such a message is read it
// is not noticed, and the one-time key counts of the server don't help, since keys that others claimed are missing from
// them at all times. So a copy should not be put back: log in anew instead, and restore the key backup.
package e2ee
