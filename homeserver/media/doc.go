// Package media keeps content: what users upload, copies of what other servers have, thumbnails and the
// images of link previews.
//
// The client and the federation API call it. It stores files under the names of their hashes and
// describes them in the store. It knows no rooms, and neither how another server is called (see Remote)
// nor how an answer is written, apart from the one form that servers use between each other.
package media
