package cli

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxKnown bounds the messages that a chat remembers for what may still come about them.
	maxKnown = 1000
	// maxKeys bounds the different reactions that are shown under one message.
	maxKeys = 8
	// maxPiece bounds what is repeated of a message, in characters.
	maxPiece = 60
)

// page is what is shown of a room as text: messages with what belongs to them. With --json events are shown as they are.
type page struct {
	lines []*message // those with a line of their own, as they are to be shown
	byID  map[id.EventID]*message
	kept  map[id.EventID]*message // of the history on this disk; they are only named
}

// gather has each message take its edits and the reactions to it, which have no line of their own then. What was kept
// is there to be named by answers.
func gather(messages, kept []message) *page {
	p := &page{byID: map[id.EventID]*message{}}
	for _, m := range messages {
		if p.byID[m.ID] == nil {
			p.byID[m.ID] = &m
			p.lines = append(p.lines, &m)
		}
	}
	p.lines = slices.DeleteFunc(p.lines, func(m *message) bool {
		to := p.byID[m.RelatesTo]
		return to != nil && (to.edited(*m) || to.reacted(*m))
	})
	if len(kept) > 0 {
		p.kept = gather(kept, nil).byID
	}
	return p
}

// add remembers a message that has just come, and was shown.
func (p *page) add(m message) {
	if to := p.byID[m.RelatesTo]; m.Kind == "reaction" || to != nil && to.edited(m) {
		return
	}
	if len(p.lines) >= maxKnown {
		for _, old := range p.lines[:maxKnown/2] {
			delete(p.byID, old.ID)
		}
		p.lines = slices.Delete(p.lines, 0, maxKnown/2)
	}
	p.byID[m.ID] = &m
	p.lines = append(p.lines, &m)
}

// forget drops what was redacted.
func (p *page) forget(event id.EventID) {
	delete(p.byID, event)
	delete(p.kept, event)
}

// find is a message that was seen here; nil if it was not.
func (p *page) find(event id.EventID) *message {
	switch {
	case p == nil:
		return nil
	case p.byID[event] != nil:
		return p.byID[event]
	}
	return p.kept[event]
}

// replaces says whether an edit may take the place of a message: by the rules that all have (Client-Server API, "Validity
// of replacement events"), and no text that was decrypted gives way to one that anybody could have made up.
func (m message) replaces(original message) bool {
	switch {
	case m.Kind != "edit", original.Kind == "verification": // an edit has a new content, or it is none
	case m.StateKey != nil || original.StateKey != nil:
	case m.Sender != original.Sender, m.Room != original.Room, m.Type != original.Type:
	case relationOf(original.Content).Type == "m.replace":
	case original.Encrypted && !m.Encrypted, original.Trust > e2ee.Red && m.Trust == e2ee.Red:
	default:
		return true
	}
	return false
}

// edited takes an edit in, if it is one of this message. The newest counts.
func (m *message) edited(edit message) bool {
	if !edit.replaces(*m) {
		return false
	}
	if e := m.edit; e == nil || edit.Time > e.Time || edit.Time == e.Time && edit.ID > e.ID {
		after := edit.newContent()
		m.edit = &after
	}
	return true
}

// now is a message as its newest edit has made it, with the worse mark of the two.
func (m message) now() message {
	if e := m.edit; e != nil {
		m.Kind, m.Body = e.Kind, e.Body
		if e.Trust < m.Trust {
			m.Trust, m.Reason = e.Trust, e.Reason
		}
	}
	return m
}

// reacted counts a reaction, if it is one to this message: one of each kind by each user.
func (m *message) reacted(reaction message) bool {
	key := strings.TrimSpace(safeLine(reaction.Body))
	if reaction.Kind != "reaction" || key == "" || m.Kind != "message" && m.Kind != "file" {
		return false
	}
	if m.reactions == nil {
		m.reactions = map[string]map[id.UserID]bool{}
	}
	if m.reactions[key] == nil {
		m.reactions[key] = map[id.UserID]bool{}
	}
	m.reactions[key][reaction.Sender] = true
	return true
}

// reacting lists the reactions to a message, in a line of its own. Reactions are not encrypted, so that the lock of the
// message is not theirs.
func (a *app) reacting(m message) text {
	if len(m.reactions) == 0 {
		return ""
	}
	keys := slices.SortedFunc(maps.Keys(m.reactions), func(x, y string) int {
		return cmp.Or(cmp.Compare(len(m.reactions[y]), len(m.reactions[x])), cmp.Compare(x, y))
	})
	line := compose("reactions, as the servers say:")
	for _, key := range keys[:min(len(keys), maxKeys)] {
		line += compose(" %s %d", reactionKey(key), len(m.reactions[key]))
	}
	if more := len(keys) - maxKeys; more > 0 {
		line += compose(" and %d others", more)
	}
	return "\n  " + a.paint(colourFaint, line) // where no line of the message can begin
}

// reactionKey is what somebody reacts with; in quotes if it could pass for several with their counts, or for a mark.
func reactionKey(key string) text {
	if strings.ContainsAny(key, ` "\0123456789()[]`) {
		return quoted(key)
	}
	return compose("%s", key)
}

// about names an event in short: whose it is, with its lock, and how it begins. Of one that was not seen here, or that
// anybody could have made up, nothing is repeated.
func (a *app) about(event id.EventID, p *page) text {
	found := p.find(event)
	if found == nil {
		return compose("%s", event)
	}
	m := found.now()
	if m.Trust == e2ee.Red || m.Kind != "message" && m.Kind != "file" {
		return compose("%s", event)
	}
	piece := []rune(strings.ReplaceAll(safeLine(m.Body), `"`, "'"))
	if len(piece) > maxPiece {
		piece = append(piece[:maxPiece-1], '…')
	}
	return compose(`%s %s: "%s"`, m.Sender, a.lock(message{Encrypted: m.Encrypted, Trust: m.Trust}), string(piece))
}
