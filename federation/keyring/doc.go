// Package keyring publishes this server's signing keys, obtains those of other servers, and checks with
// them the signatures of requests and events (Server-Server API, "Retrieving server keys").
//
// Keys come from memory, the database, their own server, or trusted notaries, in this order. Many keys are
// always asked for at once: a batch of events costs one query and one request for each unknown server.
//
// Its callers are federation, which checks requests and answers as a notary, and the room engine by way of
// federation's Remote. It must not know rooms, or why something is checked.
package keyring
