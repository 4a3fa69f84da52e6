// Package filter holds the filters that clients give for /sync, /messages and the like (Client-Server
// API, "Filtering"): their form, and what they let through.
//
// The package is pure. Whoever reads events or builds answers for clients asks it; it knows neither
// events' storage nor HTTP.
package filter
