package pushrule

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/glob"
)

// Message is an event that the rules of several users are asked about, with what they may want to know of its room.
// It must not be copied, and its fields not be changed, once it is in use.
type Message struct {
	*event.Event
	// Members is how many users are joined to the room.
	Members int64
	// MayNotify says whether the sender's power level is enough to notify by a key such as "room".
	// Where it is nil, it is not.
	MayNotify func(key string) bool

	decode  sync.Once
	decoded atomic.Bool
	content map[string]any // once it is decoded
	fold    sync.Once
	body    string // folded
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
	if len(path) < 2 || path[0] != "content" || !m.decoded.Load() && !m.mayHave(path[1]) {
		return nil, false
	}
	m.decode.Do(m.decodeContent)
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

func (m *Message) decodeContent() {
	decoder := json.NewDecoder(bytes.NewReader(m.Content))
	decoder.UseNumber()
	if err := decoder.Decode(&m.content); err != nil {
		m.content = nil // an event that was parsed has an object here
	}
	m.decoded.Store(true)
}

// lookupCost is how many steps lookup takes, about.
func (m *Message) lookupCost(path []string) int {
	const hop, atOnce = 32, 32 // steps to a member of an object, bytes of a text that are searched in one step
	cost := hop * len(path)
	if !m.decoded.Load() {
		cost += len(m.Content) / atOnce
	}
	return cost
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
	m.fold.Do(func() {
		value, _ := m.lookup(bodyPath)
		text, _ := value.(string)
		m.body = glob.Fold(text)
	})
	return m.body
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
