// Package interop has no code but tests: they hold a whole server against programs that others wrote, as
// people use them. What these found once stays found.
//
//   - browser_test.go: the newest matrix-js-sdk with its Rust crypto, in headless Chromium.
//   - verification_test.go: the same against the terminal client, by emoji in a room.
//   - nio_test.go: matrix-nio; commander_test.go: matrix-commander on top of it.
//   - synapse_test.go: Synapse as a federated server, in rooms of several versions.
//
// Nobody calls it. Without the programs the tests are skipped, except where CI=true, where they fail. In this
// folder, "npm ci --prefix browser" and "python/install" fetch them; Chromium is the distribution's. The tests of
// matrix-commander and Synapse take minutes, and run where SECURECOMM_TEST_FULL is set, as .ci/run full does.
package interop
