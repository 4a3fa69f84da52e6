// Package eventauth decides whether an event is allowed by the state of its room: the authorization
// rules of room versions 1 to 12 (https://spec.matrix.org/v1.19/rooms/, "Authorisation rules"), which
// auth events an event must name, and what power levels mean. A refusal carries the number of the rule
// in that version's list.
//
// It is called by the room engine for local and remote events and by stateres. It is pure: values in,
// values out. It must not know of storage, network, time or keys of servers; that an event is genuine
// has been proven before by event.Verify. Whether an auth event was itself rejected is known only to
// the caller, who uses RefuseRejected.
package eventauth
