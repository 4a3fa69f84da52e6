// Package verify is the conversation by which two devices let their users compare a short text and then know each
// other's keys (Client-Server API, "Short Authentication String (SAS) verification"), by messages to devices or by events
// in a room.
//
// Its caller is the terminal client, which passes the messages on and asks the user. It knows nothing of how they
// travel, of time, or of what being verified means: it says which keys the other side has proven to know, and the
// caller tells the machine. Nothing is stored: a conversation that is interrupted begins anew.
package verify
