// Package stream holds the positions of the one log, sync tokens, and waiting for and waking by new
// positions.
//
// Every durable change that someone may have to hear of takes the next Position. The store writes the
// changes and publishes them to a Hub once they are committed; readers (the sync engine, the federation
// sender) look at what the Hub remembers of the recent past and wait for more. The package knows
// neither the database nor what a change contains.
package stream
