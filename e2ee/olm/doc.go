// Package olm is the Olm cryptographic ratchet between two devices: accounts with one-time and fallback
// keys, the triple Diffie-Hellman that starts a session, and the double ratchet (Olm specification,
// version 1 with 8-byte authentication codes).
//
// Its caller is e2ee. Values are plain memory: they marshal to JSON that holds private keys, and it is
// the caller who encrypts it and stores it before a message leaves. Decrypt changes a session only when
// it succeeds. The package knows nothing of users, events or storage.
package olm
