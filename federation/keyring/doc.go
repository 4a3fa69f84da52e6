// Package keyring publishes this server's signing keys, obtains those of other servers, and checks with
// them the signatures of requests and events (Server-Server API, "Retrieving server keys").
//
// Keys come from memory, the database, their own server, trusted notaries, or the server that told of what is signed, in this
// order; the last may only show that a key that is known was used for longer. Many keys are
// always asked for at once: a batch of events costs one query and one request for each unknown server.
//
// A key is forgotten a year after it ceased to be valid, by federation's Prune: what it signed was checked when it came
// and is stored, and for older history its server or a notary is asked again. This server's own former keys come from
// the configuration, since nobody else may be left who knows them.
//
// Its callers are federation, which checks requests and answers as a notary, and the room engine by way of
// federation's Remote. It must not know rooms, or why something is checked.
package keyring
