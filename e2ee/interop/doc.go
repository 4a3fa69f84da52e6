// Package interop has no code but tests: they hold the packages of e2ee against other implementations of
// the same specifications, in both directions. libolm and matrix-sdk-crypto (whose ratchets are vodozemac)
// run in one Node process per test, peer.mjs, which takes requests as lines of JSON.
//
// Nobody calls it. "npm ci" in this folder fetches the libraries; without them
// the tests are skipped, except where CI=true, where they fail.
package interop
