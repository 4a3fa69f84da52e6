package clientsync

import (
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
)

// WhenJudged has something done each time that a rule asks whether the sender of an event may notify everybody.
func (e *Engine) WhenJudged(ev *store.Event, do func()) {
	e.messages.Set(ev.NID, &sharedMessage{pushrule.Message{
		Event: ev.Event, Members: 3, MayNotify: func(string) bool { do(); return false },
	}})
}

// HoldState says how many bytes of state are held in answers.
func (e *Engine) HoldState(bytes int) { e.wholeState = bytes }

// MaxWholeState is how many that are otherwise.
const MaxWholeState = maxWholeState

// NameMost says how many receipts and names of who types are told at most before each room has only the least.
func (e *Engine) NameMost(n int) { e.mostNames = n }

// LookBack says how many events are looked at, and how many bytes of them, for what is unread in a room.
func (e *Engine) LookBack(events, size int) { e.mostUnread, e.unreadSize = events, size }

// GapBefore says whether a timeline has a gap before an event.
func (e *Engine) GapBefore(tx *store.Tx, ev *store.Event) (bool, error) {
	return (&builder{e: e, tx: tx}).gapBefore(ev)
}
