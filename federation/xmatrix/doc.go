// Package xmatrix signs the requests between servers and checks them (Server-Server API, "Request
// Authentication"): the Authorization header of the scheme X-Matrix, and the JSON that its signature covers.
//
// Its callers are federation/client, which signs, and federation, which checks. The package is pure: it
// knows neither HTTP nor where other servers' keys come from.
package xmatrix
