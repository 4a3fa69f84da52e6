// Package visibility decides which events of a room a user may see (Client-Server API, "Room history visibility"), by the
// state before each event, and after it where it changes the visibility or the user's own membership. It also tells whom
// a user ignores.
//
// Packages timeline, clientsync and push ask it about every event that they show or count; what a departed or forgetful user
// may still look at, and what of an answer's work is left, is theirs to decide. The package reads the store and changes nothing.
package visibility
