// Package stateres finds the one state of a room that several branches of its history agree upon:
// the state resolution algorithms 1 (room version 1), 2 (2 to 11) and 2.1 (12), as in
// https://spec.matrix.org/v1.19/rooms/, "State resolution".
//
// It is called by the room engine where an event follows several others. It is pure: it asks the caller for
// the events that it comes to need. It must not know of storage, network or time.
//
// What it looks at depends on what is in conflict, not on the size of the room: what all state sets have in common is
// left out of them (Common), auth chains are walked down no further than they differ, and the mainline is followed only
// as far as somebody asks. For that each event has a rank above those that authorize it (Place), which the caller keeps.
//
// Where the specification's words leave room, this package does what existing servers agree upon, since
// servers that disagree about state fall apart:
//   - A state event counts as part of the auth chain of a state set that holds it, so an event on which
//     all sets agree is never in the auth difference.
//   - Step 1 enlarges the set of power events along auth events that are themselves in the full conflicted
//     set, and orders it by direct edges.
//   - In algorithm 1, if no event of a conflict is allowed the oldest is taken; conflicting members are
//     resolved without sight of each other.
package stateres
