// Package id holds the names of the Matrix world as types: users, rooms, events, devices, servers and
// keys, with their grammar (Client-Server API, Appendices, "Identifier Grammar").
//
// Every other package uses these types instead of strings. The package knows nothing of storage,
// network or time.
package id
