// Package room is the room engine: it creates rooms, builds and authorizes the events of local users,
// takes in events of other servers, and appends both to the log in one way (append.go).
//
// A room's head (forward extremities, current state, sequence) is kept in memory (live.go). A writer
// builds on it under the room's lock (draft.go), releases the lock as soon as its update is queued, and
// the update succeeds only if the stored head is still the one that was built on; otherwise the head is
// read again and the event built anew. What the head in memory has and the database not yet is carried with the drafts that
// are queued: a draft reads by its view, which shows it.
//
// The current state is what the states behind all ends of a room resolve to, however many they are (ends.go).
//
// States that nothing refers to any longer, and rooms that no user of this server is in or remembers, are deleted in the
// background (collect.go).
//
// The client API, the federation API and the composition root call the engine. What it needs of other
// servers it asks of a Remote. It knows nothing of HTTP, of syncs or of push.
package room
