package clientsync

import (
	"encoding/json"
	"strings"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

func appendString(out []byte, s string) []byte { return canonicaljson.AppendString(out, s) }

// appendTimelineEvent adds an event as the client wants it, with what is bundled with it. Most events look the same to
// all, and are encoded once.
func (b *builder) appendTimelineEvent(out []byte, v *visit, ev *store.Event, txns map[id.EventID]string, bundle json.RawMessage) ([]byte, error) {
	membership, err := b.membershipAt(v, ev)
	if err != nil {
		return nil, err
	}
	txn, own := txns[ev.ID]
	plain := len(b.f.EventFields) == 0 && b.f.EventFormat != "federation"
	if plain && !own && bundle == nil && ev.StateKey == nil && ev.RedactedBy == 0 && membership == "join" {
		return append(out, ev.SyncJSON()...), nil
	}
	unsigned := append(make([]byte, 0, 256), `{"membership":`...)
	unsigned = appendString(unsigned, membership)
	if ev.StateKey != nil {
		if unsigned, err = b.appendReplaced(unsigned, ev); err != nil {
			return nil, err
		}
	}
	if unsigned, err = b.appendRedaction(unsigned, ev); err != nil {
		return nil, err
	}
	if own {
		unsigned = appendString(append(unsigned, `,"transaction_id":`...), txn)
	}
	if bundle != nil {
		unsigned = append(append(unsigned, `,"m.relations":`...), bundle...)
	}
	return b.appendFormatted(out, ev, append(unsigned, '}'))
}

// appendStateEvent adds an event of a state section.
func (b *builder) appendStateEvent(out []byte, ev *store.Event) ([]byte, error) {
	var unsigned []byte
	if ev.RedactedBy != 0 {
		list, err := b.appendRedaction([]byte(`{"age":0`), ev)
		if err != nil {
			return nil, err
		}
		unsigned = append(list, '}')
	}
	return b.appendFormatted(out, ev, unsigned)
}

func (b *builder) appendFormatted(out []byte, ev *store.Event, unsigned json.RawMessage) ([]byte, error) {
	var raw []byte
	switch {
	case b.f.EventFormat != "federation":
		raw = ev.Event.SyncJSON(unsigned)
	case len(unsigned) > 0:
		raw = ev.WithUnsigned(unsigned)
	default:
		raw = ev.JSON
	}
	if len(b.f.EventFields) == 0 {
		return append(out, raw...), nil
	}
	some, err := fields(raw, b.f.EventFields)
	return append(out, some...), err
}

// appendReplaced tells what a state event replaced.
func (b *builder) appendReplaced(out []byte, ev *store.Event) ([]byte, error) {
	before, err := b.replaced(ev)
	if err != nil || before == nil {
		return out, err
	}
	out = append(append(out, `,"prev_content":`...), before.Content...)
	out = appendString(append(out, `,"prev_sender":`...), string(before.Sender))
	return appendString(append(out, `,"replaces_state":`...), string(before.ID)), nil
}

// replaced is what a state event replaced; nil if nothing.
func (b *builder) replaced(ev *store.Event) (*store.Event, error) {
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return nil, err
	}
	return b.tx.States.Event(m, ev.Tuple())
}

func (b *builder) appendRedaction(out []byte, ev *store.Event) ([]byte, error) {
	by, err := b.redaction(ev)
	if err != nil || by == nil {
		return out, err
	}
	out = append(append(out, `,"redacted_because":`...), by.ClientJSON(nil)...)
	return appendString(append(out, `,"redacted_by":`...), string(by.ID)), nil
}

// redaction is what redacted an event; nil if nothing did.
func (b *builder) redaction(ev *store.Event) (*store.Event, error) {
	if ev.RedactedBy == 0 {
		return nil, nil
	}
	list, err := b.tx.Events.ByNID(ev.RedactedBy)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// fields leaves of an event what a client wants of it (Client-Server API, "Filtering", event_fields).
func fields(raw []byte, wanted []string) ([]byte, error) {
	var whole map[string]any
	if err := json.Unmarshal(raw, &whole); err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, path := range wanted {
		pick(out, whole, splitPath(path))
	}
	return json.Marshal(out)
}

func pick(into, from map[string]any, path []string) {
	value, ok := from[path[0]]
	if !ok {
		return
	}
	if len(path) == 1 {
		into[path[0]] = value
		return
	}
	inner, ok := value.(map[string]any)
	if !ok {
		return
	}
	next, ok := into[path[0]].(map[string]any)
	if !ok {
		next = map[string]any{}
	}
	if pick(next, inner, path[1:]); len(next) > 0 {
		into[path[0]] = next
	}
}

// splitPath splits at dots that have no backslash before them.
func splitPath(path string) []string {
	var out []string
	var part strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			part.WriteByte(path[i])
		case path[i] == '.':
			out = append(out, part.String())
			part.Reset()
		default:
			part.WriteByte(path[i])
		}
	}
	return append(out, part.String())
}
