// Package event holds the events of rooms in all room versions from 1 to 12: reading foreign ones,
// building our own, hashes, event IDs, signatures, redaction, and the facts in which room versions
// differ (https://spec.matrix.org/v1.19/rooms/).
//
// It is called by everything that touches rooms: eventauth, stateres, the room engine, the store, the
// edges. It is pure and must not know of storage, network, time or who asks. It decides whether an
// event is well formed and genuine; whether it is allowed is eventauth's business.
package event
