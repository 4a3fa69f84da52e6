package timeline

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
)

// CountWithin counts what a search finds in a room if it may look at so many bytes.
func CountWithin(s *Service, ctx context.Context, r Reader, room id.RoomID, term string, size int) (int, error) {
	l := &looking{Service: s, ctx: ctx, reader: r, room: room, events: maxSearched, size: size}
	found, err := l.findAll(&Search{Filter: &filter.RoomEvents{}}, wordsOf(term), maxFound)
	return len(found), err
}
