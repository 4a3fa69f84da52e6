// Package load bounds the memory that requests take up: in all, and for each who asks. A request is charged by what it has
// sent so far, beyond an amount that is free. When there is no room, who has the most loses it first, and only to somebody
// who has less.
//
// Surplus applies the same rule to what waits in the database: inboxes of devices, and what is to go to other servers.
//
// The two APIs charge the bodies that they read, and what they answer until it is read. Who asks is a name to this package,
// which knows nothing of users, servers or HTTP. What was read of other servers goes on counting while it is worked on (Hold).
package load
