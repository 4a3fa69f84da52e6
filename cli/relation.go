package cli

import (
	"encoding/json"
	"reflect"
	"strings"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

// relation is how a message belongs to another one (Client-Server API, "Forming relationships between events").
type relation struct {
	Type    string     `json:"rel_type"`
	Event   id.EventID `json:"event_id"`
	Key     string     `json:"key"`
	InReply struct {
		Event id.EventID `json:"event_id"`
	} `json:"m.in_reply_to"`
	FallingBack bool `json:"is_falling_back"`
}

// answered is what a message answers. What stands in a thread names one for clients that know no threads, too.
func (r relation) answered() id.EventID {
	if r.FallingBack {
		return ""
	}
	return r.InReply.Event
}

// withoutFallback is the body of an answer without the lines in which older clients repeat what it answers (Client-Server
// API, "Rich replies"). It is left as it is if these are not theirs, but a quote of the sender's own.
func withoutFallback(body string) string {
	if !strings.HasPrefix(body, "> <@") && !strings.HasPrefix(body, "> * <@") {
		return body
	}
	rest := body
	for strings.HasPrefix(rest, "> ") {
		_, rest, _ = strings.Cut(rest, "\n")
	}
	if rest = strings.TrimPrefix(rest, "\n"); rest == "" {
		return body
	}
	return rest
}

// relatedHelp says how the commands show what belongs to other messages.
const relatedHelp = "An edit takes the place of the text that it edits, which is shown as \"(edited)\" with the worse\n" +
	"lock of the two. One that is not its author's, is not locked as the text is, or whose text is\n" +
	"not among what is shown, has a line of its own. Reactions are counted under their message: the\n" +
	"servers can make them up, and no lock speaks for them. An answer names whom it answers, and\n" +
	"quotes the beginning with its lock, if the text was seen here and is not red; if only the\n" +
	"servers say what is answered, that is told."

const relatesTo = "m.relates_to"

// relationOf reads the relation of a content; it is empty if there is none.
func relationOf(content json.RawMessage) (r relation) {
	var fields struct {
		Relation relation `json:"m.relates_to"`
	}
	if json.Unmarshal(content, &fields) != nil {
		return relation{}
	}
	return fields.Relation
}

// withRelation gives the decrypted content of an event the relation that stands beside its ciphertext, where it has to be
// for the servers, and which they could have exchanged. The level is how far it is to be trusted: green if it is in the
// encrypted content too, red if another one is.
func withRelation(content, outside json.RawMessage) (json.RawMessage, e2ee.Level) {
	var inner, outer map[string]json.RawMessage
	if json.Unmarshal(content, &inner) != nil || inner == nil || json.Unmarshal(outside, &outer) != nil {
		return content, e2ee.Red
	}
	switch in, out := inner[relatesTo], outer[relatesTo]; {
	case out == nil:
		return content, e2ee.Green
	case in != nil && same(in, out):
		return content, e2ee.Green
	case in != nil:
		return content, e2ee.Red
	default:
		inner[relatesTo] = out
	}
	joined, err := json.Marshal(inner)
	if err != nil {
		return content, e2ee.Red
	}
	return joined, e2ee.Yellow
}

func same(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
