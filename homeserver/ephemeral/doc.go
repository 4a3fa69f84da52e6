// Package ephemeral holds what rooms show besides their events: who is typing, how far people have read, and who is
// there (Client-Server API, "Typing Notifications", "Receipts", "Fully read markers", "Presence").
//
// The client-server API calls it for local users, federation for what other servers say of theirs, and the sync
// engine reads from it. Typing and presence live in memory and are counted by a volatile position; receipts are
// durable and part of the log. The package knows nothing of HTTP or of how data units reach other servers.
package ephemeral
