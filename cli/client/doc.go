// Package client speaks the client-server API as a client does: typed calls, discovery, waiting out rate
// limits, and a sync loop. It works with any Matrix server.
//
// The terminal client and the demonstration are its callers. It knows only the names in homeserver/id:
// nothing of encryption, of files on disk or of terminals. Bodies that belong to encryption pass through
// as raw JSON.
package client
