// Package peers asks several other servers for what any of them may have, so that none that is silent holds up who asks:
// in an order in which many names of one owner count as one (Spread), and each with a short head start (First).
//
// The room engine, the timeline and the directory call it. It knows nothing of what is asked, nor of how.
package peers
