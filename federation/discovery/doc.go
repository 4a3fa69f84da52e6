// Package discovery turns the name of a Matrix server into an address to dial, a Host header and a name
// for its certificate (Server-Server API, "Resolving server names"), and holds the guarded dialer.
//
// The Guard opens every connection whose destination a stranger could choose: federation, link
// previews, push gateways and media redirects. It resolves a name once, checks each address and dials
// exactly an address that it checked, so that no name can point into our own network.
//
// Its callers are federation/client and the packages that fetch from strangers. It must not know
// storage, events or signatures.
package discovery
