// Package identity is who is who: the keys of devices and the cross-signing keys of users, their JSON
// forms, and the signatures that bind them together (Client-Server API, "Device keys" and
// "Cross-signing").
//
// Its callers are e2ee and the packages beside it. It checks what can be checked from the objects alone;
// which of them to trust is e2ee's decision. It knows nothing of storage or network.
package identity
