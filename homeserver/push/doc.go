// Package push keeps users' push rules and pushers, and tells which events a user is notified of.
//
// The client API edits rules and pushers through it; those who count unread messages get a user's rules
// from it and evaluate them with package pushrule. It knows the store, but neither HTTP nor how an event
// is sent.
package push
