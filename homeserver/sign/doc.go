// Package sign holds ed25519 signing keys and signed JSON (Appendices, "Signing JSON").
//
// It is called by event, by the key services of both APIs and by the federation for its requests. It
// must not know what the signed objects mean, nor where other servers' keys come from.
package sign
