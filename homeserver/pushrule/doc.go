// Package pushrule holds push rules (Client-Server API, "Push Rules"): the predefined ones, editing a
// user's rules, and finding out what the rules of a user say of an event.
//
// Package push keeps the rules and edits them, and those who count unread messages evaluate them. The
// package is pure: it knows neither where rules are stored nor how a notification reaches anyone.
package pushrule
