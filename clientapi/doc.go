// Package clientapi is the client-server API: a table of routes and their handlers, one file for each
// module of the specification.
//
// A handler decodes its request, calls one method of a domain package and shapes the answer. Domain
// errors become Matrix error codes in the one table of errors.go. Authentication, rate limits and
// cross-origin headers are the business of route.go, not of handlers.
//
// The composition root fills an API and registers it. The package knows nothing of SQL, of other
// servers or of configuration files.
package clientapi
