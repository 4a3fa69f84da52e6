// Package canonicaljson checks JSON and brings it into the one form that is hashed and signed: the
// shortest UTF-8 encoding with sorted keys and nothing but integers for numbers (Appendices,
// "Canonical JSON").
//
// It is called by sign and event, and by e2ee on the client's side. It stands on the way of every event
// and therefore works on bytes in one pass, without building maps. It must not know what the JSON means.
package canonicaljson
