// Package store holds all SQL: one text for SQLite (the embedded default) and PostgreSQL.
//
// Update runs a decision and makes it durable; View reads from one snapshot. Inside both, a Tx gives the
// aggregates (Tx.Events, Tx.Rooms, Tx.Keys, …), one file each. Aggregates hold no rules: what may be
// written is decided by the domain packages that call them.
//
// # Updates
//
// Update queues its function; one writer runs as many of them as wait in a single database transaction,
// each under a savepoint, and commits once (group commit). Functions may run more than once and must
// have no effect but on the Tx. What takes a position in the log is handed to Tx.Log and written at
// the end, when the counter row is locked, so positions become visible in order and without gaps.
//
// # What goes
//
// Each table says in its migration what prunes it. What is deleted in bulk is looked for in a View and deleted in
// small updates, so that no other update waits for long. States that nothing refers to (unused.go) and rooms that nobody
// here wants (purge.go) go in two phases; room.Engine.Collect runs them, under a lease.
//
// The package knows nothing of rules, networks or clients.
package store
