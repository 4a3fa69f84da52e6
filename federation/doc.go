// Package federation is the server-to-server API: a table of routes and their handlers, and Remote, by which
// other packages ask things of other servers.
//
// A request is authenticated by the signature of the server that makes it (auth.go) before its handler
// runs. A handler decodes, calls one domain method and shapes the answer; domain errors become Matrix
// error codes in the one table of errors.go. Transactions are answered once and then by heart
// (transaction.go).
//
// The composition root fills an API and a Remote. The package knows no SQL, clients or configuration files.
package federation
