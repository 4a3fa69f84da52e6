// Package client calls other servers: one method per operation of the Server-Server API that we use, over
// HTTPS to where federation/discovery says, signed by federation/xmatrix.
//
// Its callers are federation/keyring, federation/sender and the domain packages through the interfaces
// that they declare. What comes back is bounded in size and decoded, but foreign: events and keys stay
// raw JSON until the caller parsed and verified them. Nothing is tried again here, since only the caller
// knows what a second attempt is worth. The package must not know storage, nor what events mean.
package client
