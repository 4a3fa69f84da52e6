// Package account holds what concerns a user of this server alone: the account and its password, devices
// and tokens, interactive authentication, profile, account data and filters.
//
// The client API calls it, and the federation API for profiles. It knows the store, but no rooms and no
// HTTP: what a changed profile means to rooms is told to whoever asked for it by Service.OnProfileChange.
package account
