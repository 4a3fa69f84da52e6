package pushrule

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
)

// Message is an event that the rules of several users are asked about, with what they may want to know of its room.
// It must not be used by two goroutines at once.
type Message struct {
	*event.Event
	// Members is how many users are joined to the room.
	Members int64
	// MayNotify says whether the sender's power level is enough to notify by a key such as "room".
	// Where it is nil, it is not.
	MayNotify func(key string) bool

	content map[string]any // decoded when first needed
	body    *string        // folded; decoded when first needed
}

// lookup finds a property of the event by its path.
func (m *Message) lookup(path []string) (any, bool) {
	if len(path) == 1 {
		switch path[0] {
		case "type":
			return m.Type, true
		case "sender":
			return string(m.Sender), true
		case "room_id":
			return string(m.RoomID), true
		case "event_id":
			return string(m.ID), true
		case "state_key":
			if m.StateKey == nil {
				return nil, false
			}
			return *m.StateKey, true
		}
	}
	if len(path) < 2 || path[0] != "content" || !m.mayHave(path[1]) {
		return nil, false
	}
	if m.content == nil {
		m.content = map[string]any{}
		decoder := json.NewDecoder(bytes.NewReader(m.Content))
		decoder.UseNumber()
		if err := decoder.Decode(&m.content); err != nil {
			m.content = map[string]any{} // an event that was parsed has an object here
		}
	}
	var value any = m.content
	for _, name := range path[1:] {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[name]; !ok {
			return nil, false
		}
	}
	return value, true
}

// mayHave is false if the content certainly has no member of that name. It spares most events the decoding.
func (m *Message) mayHave(name string) bool {
	for _, c := range []byte(name) {
		if c < ' ' || c == '"' || c == '\\' || c > '~' {
			return true // it might be written with escapes
		}
	}
	return bytes.Contains(m.Content, []byte(name)) || bytes.IndexByte(m.Content, '\\') >= 0
}

var (
	bodyPath     = []string{"content", "body"}
	mentionsPath = []string{"content", "m.mentions"}
)

// foldedBody is the text of the message, folded; empty if it has none.
func (m *Message) foldedBody() string {
	if m.body == nil {
		value, _ := m.lookup(bodyPath)
		text, _ := value.(string)
		text = fold(text)
		m.body = &text
	}
	return *m.body
}

// splitPath reads a path of properties (Appendices, "Dot-separated property paths").
func splitPath(key string) []string {
	var path []string
	var name strings.Builder
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] == '.':
			path = append(path, name.String())
			name.Reset()
		case key[i] == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			name.WriteByte(key[i])
		default:
			name.WriteByte(key[i])
		}
	}
	return append(path, name.String())
}
