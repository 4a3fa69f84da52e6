package e2ee

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxIndex is the highest number of a message in a session that is read. Honest clients change the key long
	// before; without an end, what has to be remembered of a session would have none.
	maxIndex = 100_000

	seenPerRecord = 64
	markSize      = 16
	entrySize     = 1 + markSize
)

// seen is one message number of a session, and the event that it came in. What was seen is never forgotten as long
// as the key is here: who could have it forgotten could show a message again. It is kept small instead: a record
// has an entry of 17 bytes for each of 64 numbers, the number's low bits and a hash of the event.
type seen struct {
	key    string
	offset byte
	mark   []byte
}

func newSeen(room id.RoomID, e *roomEvent, index uint32) seen {
	mark := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", e.ID, e.Timestamp))
	return seen{
		key:    fmt.Sprintf("%s%s\x00%d", prefixSeen, join(room, e.Content.Session), index/seenPerRecord),
		offset: byte(index % seenPerRecord), mark: mark[:markSize],
	}
}

// find is the mark of the event that the number first came in.
func (s seen) find(r reader) (mark []byte, ok bool) {
	record, _ := r.Get(s.key)
	for entry := range slices.Chunk(record, entrySize) {
		if len(entry) == entrySize && entry[0] == s.offset {
			return entry[1:], true
		}
	}
	return nil, false
}

// replayed says whether the number came in another event before.
func (s seen) replayed(r reader) bool {
	mark, ok := s.find(r)
	return ok && !bytes.Equal(mark, s.mark)
}

func (s seen) note(t *txn) {
	if _, ok := s.find(t); ok {
		return
	}
	record, _ := t.Get(s.key)
	t.Put(s.key, slices.Concat(record, []byte{s.offset}, s.mark))
}
