package timeline

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/filter"
)

// CountWithin counts what a search finds in the reader's rooms if it may look at so many bytes.
func CountWithin(s *Service, ctx context.Context, r Reader, term string, size int) (int, error) {
	found, err := s.find(ctx, r, &Search{Filter: &filter.RoomEvents{}}, wordsOf(term), maxSearched, size)
	return len(found), err
}
