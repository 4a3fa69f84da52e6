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
// have no effect but on the Tx. Each sees all that the ones before it wrote, as if every one had been committed.
//
// What takes a position in the log is handed to Tx.Log, which writes it at once: the writer counts on from the newest
// position that it knows. Only before the commit does it move the counter row, and only if the counter is still
// where it counted from; the row is locked from there to the end of the commit. If another process has moved the
// counter, or is about to, the batch is undone and run again with the row locked from its beginning, until
// the others are quiet. So positions become visible in order and without gaps, whichever process wrote them, and no update
// that logs something is committed on what another process's logged update has changed meanwhile.
//
// # What goes
//
// Each table says in its migration what prunes it. What is deleted in bulk is looked for in a View and deleted in
// small updates, so that no other update waits for long. States that nothing refers to (unused.go) and rooms that nobody
// here wants (purge.go) go in two phases; room.Engine.Collect runs them, under a lease.
//
// The package knows nothing of rules, networks or clients.
package store
