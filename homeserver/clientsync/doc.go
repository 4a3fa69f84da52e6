// Package clientsync answers /sync and feeds the websocket (Client-Server API, "Syncing"): it waits until something
// happens that concerns a device, gathers it from one snapshot, and writes the answer as JSON.
//
// What happened since a token that is nearly up to date is known from stream.Hub; only older tokens ask the database.
// What is needed of a user again and again (rooms, rules, unread counts) is kept in memory and follows the log, so that
// telling many waiting devices of one new message takes hardly any query. The client-server API calls the package. It
// knows nothing of HTTP, and changes nothing but the deletion of to-device messages that have arrived.
package clientsync
