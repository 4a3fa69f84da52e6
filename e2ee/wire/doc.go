// Package wire is what Olm and Megolm messages are made of: tagged fields, unpadded base64, and the
// AES-256-CBC with HMAC-SHA-256 cipher whose keys come from one secret by HKDF (Olm specification,
// "The Olm Message Format" and "Olm Authenticated Encryption").
//
// Its callers are the ratchets olm and megolm and the packages beside them. It knows of no session, no
// user and no storage.
package wire
