// Package federation is the server-to-server API: a table of routes and their handlers, and Remote, by which
// other packages ask things of other servers.
//
// A request is authenticated by the signature of the server that makes it (auth.go) before its handler
// runs. A handler decodes, calls one domain method and shapes the answer; domain errors become Matrix
// error codes in the one table of errors.go. Transactions are answered once and then by heart
// (transaction.go).
//
// Until a request has proved who makes it, it counts for its address: how many other servers are asked for keys because of
// it, how many waited for at a time, how many requests failed to prove themselves, and the bytes of bodies. Its body is
// not read before the key is at hand. From then on all counts for its server: requests (pace.go), bytes of requests and of
// answers until they are read (package load), and costly answers at a time (turns.go). What is shared is lost first by
// whoever has the most of it.
//
// The composition root fills an API and a Remote. The package knows no SQL, clients or configuration files.
package federation
