package timeline

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// remembered is how long the store keeps transaction IDs.
const remembered = 24 * time.Hour

// unsigned is what the server adds to an event for one reader.
type unsigned struct {
	Age             int64                      `json:"age,omitempty"`
	Membership      string                     `json:"membership,omitempty"`
	TransactionID   string                     `json:"transaction_id,omitempty"`
	PrevContent     json.RawMessage            `json:"prev_content,omitempty"`
	PrevSender      id.UserID                  `json:"prev_sender,omitempty"`
	ReplacesState   id.EventID                 `json:"replaces_state,omitempty"`
	RedactedBecause json.RawMessage            `json:"redacted_because,omitempty"`
	RedactedBy      id.EventID                 `json:"redacted_by,omitempty"`
	Relations       map[string]json.RawMessage `json:"m.relations,omitempty"`
}

// Form encodes events as the reader's client gets them, with unsigned data and bundled aggregations, in the
// order given. It does not ask whether the reader may see them.
func (v *View) Form(events []*store.Event) ([]json.RawMessage, error) { return v.form(events, style{}) }

// formState is Form for long lists of state events, without what only the states before them tell.
func (v *View) formState(events []*store.Event) ([]json.RawMessage, error) {
	return v.form(events, style{noPast: true})
}

// style is what an encoding of events leaves out, and how many events they are bundled in.
type style struct {
	noRoom, noPast bool
	depth          int
}

func (v *View) form(events []*store.Event, how style) ([]json.RawMessage, error) {
	txns, err := v.transactions(events)
	if err != nil {
		return nil, err
	}
	redactions, err := v.redactions(events)
	if err != nil {
		return nil, err
	}
	relations, err := v.aggregate(events, how)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	out := make([]json.RawMessage, len(events))
	for i, ev := range events {
		u := unsigned{
			Age: max(now-ev.OriginServerTS, 0), TransactionID: txns[ev.ID], Relations: relations[ev.ID],
		}
		if by := redactions[ev.RedactedBy]; by != nil {
			u.RedactedBecause, u.RedactedBy = by.ClientJSON(nil), by.ID
		}
		if !how.noPast {
			if err := v.addPast(ev, &u); err != nil {
				return nil, err
			}
		}
		raw, err := json.Marshal(u)
		if err != nil {
			return nil, fmt.Errorf("encode what is unsigned of %s: %w", ev.ID, err)
		}
		if how.noRoom {
			out[i] = ev.Event.SyncJSON(raw)
		} else {
			out[i] = ev.ClientJSON(raw)
		}
	}
	return out, nil
}

// addPast adds what the state before an event tells: the reader's membership, and what a state event replaces.
func (v *View) addPast(ev *store.Event, u *unsigned) error {
	if ev.Outlier() {
		return nil // the state before it is not known
	}
	_, after, err := v.sight.Around(ev)
	if err != nil {
		return err
	}
	if u.Membership = after.Membership; u.Membership == "" {
		u.Membership = "leave"
	}
	replaced, err := v.replaced(ev)
	if err != nil || replaced == 0 {
		return err
	}
	former, err := v.tx.Events.ByNID(replaced)
	if err != nil || len(former) == 0 {
		return err
	}
	u.ReplacesState, u.PrevContent, u.PrevSender = former[0].ID, former[0].Content, former[0].Sender
	return nil
}

// replaced is the number of the event that a state event replaced; 0 if there is none.
func (v *View) replaced(ev *store.Event) (store.EventNID, error) {
	if ev.StateKey == nil || ev.Outlier() {
		return 0, nil
	}
	state, err := v.tx.States.Map(ev.StateBefore)
	if err != nil {
		return 0, err
	}
	key, err := v.tx.States.FindKey(ev.Tuple())
	if former := state.Get(key); err == nil && key != 0 && former != ev.NID {
		return former, nil
	}
	return 0, err
}

// weigh tells how many bytes events add to an answer, each with what Form puts into it but for what is bundled: the event that
// redacted it, and unless noPast what it replaced. One that is nil adds nothing.
func (v *View) weigh(events []*store.Event, how style) ([]int, error) {
	out := make([]int, len(events))
	var told []store.EventNID
	var with []int // which of the events it is told with
	for i, ev := range events {
		if ev == nil {
			continue
		}
		if out[i] = len(ev.JSON); ev.RedactedBy != 0 {
			told, with = append(told, ev.RedactedBy), append(with, i)
		}
		if how.noPast {
			continue
		}
		replaced, err := v.replaced(ev)
		if err != nil {
			return nil, err
		}
		if replaced != 0 {
			told, with = append(told, replaced), append(with, i)
		}
	}
	sizes, err := v.tx.Events.Sizes(told)
	for i, nid := range told {
		out[with[i]] += sizes[nid].Event
	}
	return out, err
}

// transactions finds the transaction IDs that the reader's device gave to events.
func (v *View) transactions(events []*store.Event) (map[id.EventID]string, error) {
	if v.reader.Device == "" {
		return nil, nil
	}
	var own []id.EventID
	since := time.Now().Add(-remembered).UnixMilli()
	for _, ev := range events {
		if ev.Sender == v.reader.User && ev.OriginServerTS > since {
			own = append(own, ev.ID)
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	return v.tx.Requests.TxnIDs(v.reader.User, v.reader.Device, own)
}

// redactions finds the events that redacted others, under their numbers.
func (v *View) redactions(events []*store.Event) (map[store.EventNID]*store.Event, error) {
	var nids []store.EventNID
	for _, ev := range events {
		if ev.RedactedBy != 0 {
			nids = append(nids, ev.RedactedBy)
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	redacting, err := v.tx.Events.ByNID(nids...)
	if err != nil {
		return nil, err
	}
	out := make(map[store.EventNID]*store.Event, len(redacting))
	for _, ev := range redacting {
		out[ev.NID] = ev
	}
	return out, nil
}
