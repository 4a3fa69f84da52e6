package stream

import (
	"slices"
	"sort"
)

// Epoch is a part of the log that was written by one life of the database. A start of the server begins the next one, so
// that what a restored database writes is told from what was written, under the same positions, after its backup.
type Epoch struct {
	ID      string   // at random: a life that was lost had other ones
	First   Position // the first position in it
	History int64    // how many events had been fetched from elsewhere before it
}

// Life says what a token is worth here.
type Life uint8

// The lives that a token can be of.
const (
	Unknown Life = iota // of a life that was lost, and of which no more is known
	Parted              // of a life that was lost, which shared the log up to a known position
	Ours
)

// SetEpochs tells the Hub of the log's epochs, in order. An older list than the one it has changes nothing.
func (h *Hub) SetEpochs(list []Epoch) {
	h.epochsMu.Lock()
	defer h.epochsMu.Unlock()
	if old := h.Epochs(); len(list) > 0 && (len(old) == 0 || old[len(old)-1].First < list[len(list)-1].First) {
		h.epochs.Store(&list)
	}
}

// Epochs are the log's epochs as far as they are kept, in order. They must not be changed.
func (h *Hub) Epochs() []Epoch {
	if list := h.epochs.Load(); list != nil {
		return *list
	}
	return nil
}

// epochOf counts the epochs that had begun at a position. In the past, which is read towards its beginning, a position
// stands for what is at and before it: the first one that an epoch adds is still reached from the epoch before.
func epochOf(list []Epoch, p Position) int {
	return sort.Search(len(list), func(i int) bool {
		if p < 0 {
			return -(p + 1) <= Position(list[i].History)
		}
		return list[i].First > p
	})
}

// Token is the token of a position.
func (h *Hub) Token(p Position) Token {
	t := Token{Position: p}
	list := h.Epochs()
	if n := epochOf(list, p); n > 0 {
		t.Epoch = list[n-1].ID
	}
	return t
}

// Judge says which life a token is of. Of a Parted one it returns the last position that the life had in common with
// this one; what was fetched from elsewhere, it had in common up to the one before.
func (h *Hub) Judge(t Token) (Position, Life) {
	list := h.Epochs()
	n := epochOf(list, t.Position)
	if n == 0 && t.Epoch == "" || n > 0 && list[n-1].ID == t.Epoch {
		return t.Position, Ours
	}
	at := 0 // of the epoch behind the token's
	if t.Epoch != "" {
		at = 1 + slices.IndexFunc(list, func(e Epoch) bool { return e.ID == t.Epoch })
	}
	switch {
	case at == 0 && t.Epoch != "" || at >= len(list) || n < at:
		return t.Position, Unknown // n < at: before its own epoch began; nobody was given such a token
	case t.Position < 0:
		return Position(-list[at].History - 1), Parted
	default:
		return list[at].First - 1, Parted
	}
}
