// Package sender delivers to other servers what waits for them in the outbox, and ephemeral data units
// that are allowed to be lost (Server-Server API, "Transactions").
//
// The outbox is written in the transaction of whatever has to be delivered, so nothing is forgotten in a
// crash. Each destination has a queue of its own, drained in order by one goroutine while there is work. A
// destination that fails is left alone for a growing time, which is remembered across restarts and ends
// as soon as the other server speaks to us. Those that have answered have places for what is under way which no others
// can take, for a moment each (see places.go). One process at a time may run a Sender on a database.
//
// The composition root starts it; federation tells it who spoke to us, and its client who answered; the ephemeral package hands it what
// may be lost. It must not know what it delivers.
package sender
