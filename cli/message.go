package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// The delivery states of a message.
const (
	stateReceived = "received"
	stateSending  = "sending"
	stateSent     = "sent"
	stateFailed   = "failed"
)

// message is one message as the commands show it, in text and in JSON.
type message struct {
	Kind      string          `json:"kind"` // "message", "edit", "reaction", "file", "member", "verification" or "other"
	ID        id.EventID      `json:"event_id,omitempty"`
	Room      id.RoomID       `json:"room_id"`
	Sender    id.UserID       `json:"sender"`
	Device    id.DeviceID     `json:"device_id,omitempty"`
	Time      int64           `json:"time,omitempty"` // milliseconds since 1970, by the sender's server's clock
	Type      string          `json:"type"`
	StateKey  *string         `json:"state_key,omitempty"` // of a state event, else nil
	Body      string          `json:"body"`
	Content   json.RawMessage `json:"content,omitempty"`
	Encrypted bool            `json:"encrypted"`
	Trust     e2ee.Level      `json:"trust"`            // red but for what was decrypted here and judged
	Reason    string          `json:"reason,omitempty"` // why the trust is what it is
	State     string          `json:"state"`
	Error     string          `json:"error,omitempty"`

	To        id.UserID  `json:"to,omitempty"`         // whom a verification is asked of
	RelatesTo id.EventID `json:"relates_to,omitempty"` // what an edit, a reaction or an answer belongs to
	Related   e2ee.Level `json:"related,omitempty"`    // how far that is to be trusted; red if it is not there

	undecryptable bool // may be decryptable later, when its key arrives
	replacement   bool // it is the new content of an edit
	asksMe        bool // it asks this user for a verification that can still take place

	edit      *message // its newest edit: the new content, with that event's ID and time
	reactions map[string]map[id.UserID]bool
}

// describe fills what follows from type, state key and content.
func (m *message) describe() {
	m.Kind = "other"
	if m.classify(); m.RelatesTo == "" {
		m.Related = e2ee.Red
	}
}

func (m *message) classify() {
	var content struct {
		MsgType    string `json:"msgtype"`
		Body       string `json:"body"`
		Membership string `json:"membership"`
		Info       struct {
			Size int64 `json:"size"`
		} `json:"info"`
	}
	if json.Unmarshal(m.Content, &content) != nil {
		return
	}
	var relation relation
	if !m.replacement && m.StateKey == nil { // the relation of a new content is that of the message that it is for
		relation = relationOf(m.Content)
	}
	answered := relation.answered()
	if answered != "" && (m.Related == e2ee.Green || !m.Encrypted) {
		// Who could only have added the relation takes nothing out of the sender's text by it.
		content.Body = withoutFallback(content.Body)
	}
	switch {
	case relation.Type == "m.replace" && m.Type == "m.room.message", relation.Type == "m.annotation" && m.Type == "m.reaction":
		m.relate(relation)
	case m.Type == "m.room.message" && isFile(content.MsgType):
		m.Kind, m.RelatesTo = "file", answered
		m.Body = fmt.Sprintf("file %q (%d bytes)", safeLine(content.Body), content.Info.Size)
		if file, err := parseFile(*m); m.Encrypted && (err != nil || file.File == nil) {
			// The lock of a message is that of its file too, and whoever keeps this one can exchange it.
			m.Trust, m.Reason = e2ee.Red, "its file is not encrypted"
		}
	case m.Type == "m.room.message" && content.MsgType == "m.emote":
		m.Kind, m.Body, m.RelatesTo = "message", "* "+content.Body, answered
	case m.Type == "m.room.message" && content.MsgType == verify.MsgType:
		m.Kind, m.Body = "verification", "" // what it says is for clients that don't know what it is
		m.To, _, _ = verify.Asks(m.Content)
	case m.Type == "m.room.message" && content.Body != "":
		m.Kind, m.Body, m.RelatesTo = "message", content.Body, answered
	case m.Type == "m.room.member" && m.StateKey != nil:
		m.Kind, m.Body = "member", *m.StateKey+" "+memberVerb(content.Membership)
	}
}

// said says whether it is something that somebody said, not what became of the room.
func (m *message) said() bool { return m.Kind != "other" && m.Kind != "member" }

// maxReaction bounds a reaction in characters; most are one emoji.
const maxReaction = 32

// relate fills an edit or a reaction. What the servers could have exchanged of it takes its mark.
func (m *message) relate(relation relation) {
	m.RelatesTo = relation.Event
	if m.Encrypted && m.Related < m.Trust {
		m.Trust, m.Reason = m.Related, "what it belongs to is not encrypted"
	}
	if relation.Type == "m.annotation" {
		key := []rune(relation.Key)
		m.Kind, m.Body = "reaction", string(key[:min(len(key), maxReaction)])
		return
	}
	after := m.newContent()
	if after.Kind != "message" && after.Kind != "file" {
		return // without a new content it changes nothing
	}
	m.Kind, m.Body, m.Trust, m.Reason = "edit", after.Body, after.Trust, after.Reason
}

// newContent is what an edit makes of the message that it is for.
func (m *message) newContent() message {
	var content struct {
		New json.RawMessage `json:"m.new_content"`
	}
	if json.Unmarshal(m.Content, &content) != nil {
		content.New = nil
	}
	after := message{ID: m.ID, Time: m.Time, Type: m.Type, Content: content.New, Encrypted: m.Encrypted, Trust: m.Trust, Reason: m.Reason, replacement: true}
	after.describe()
	return after
}

func memberVerb(membership string) string {
	switch membership {
	case "join":
		return "is in the room"
	case "invite":
		return "is invited"
	case "leave":
		return "is not in the room any more"
	case "ban":
		return "is banned"
	}
	return "knocks"
}

func isFile(msgType string) bool {
	return msgType == "m.file" || msgType == "m.image" || msgType == "m.video" || msgType == "m.audio"
}

// line is a message as text, among those of a page; it may be nil.
func (a *app) line(m message, p *page) text {
	line := compose("%s  %s", time.UnixMilli(m.Time).Local().Format("2006-01-02 15:04"), m.Sender)
	if m.Kind == "verification" {
		return line + a.asks(m) // who it is will be seen, so that there is nothing to be marked
	}
	file := m.ID
	if m.edit != nil {
		file = m.edit.ID // which has the file that is shown
	}
	m = m.now()
	line += compose("  %s", a.lock(m))
	switch m.Kind {
	case "file":
		line += a.belonging(m, p) + compose("  %s  %s", body(m), file)
	case "other":
		line += compose("  (%s)", word(m.Type))
	case "edit":
		line += a.editing(m, p) + compose("  %s", body(m))
	case "reaction":
		line += compose("  (reacts to %s with %s)", a.about(m.RelatesTo, p), reactionKey(m.Body))
	default:
		line += a.belonging(m, p) + compose("  %s", body(m))
	}
	switch m.State {
	case stateFailed:
		line += compose("  (not sent: %s)", m.Error)
	case stateSending:
		line += "  (sending)"
	case stateSent:
		line += "  (sent)"
	}
	return line + a.reacting(m)
}

// body is what somebody wrote. In quotes if it begins as what the program says of a message does.
func body(m message) text {
	shown := lines(m.Body)
	if strings.HasPrefix(string(shown), "(") {
		return compose(`"%s"`, shown)
	}
	return shown
}

// editing says what an edit that has a line of its own edits.
func (a *app) editing(m message, p *page) text {
	if p != nil && p.byID[m.RelatesTo] != nil && m.replaces(*p.byID[m.RelatesTo]) {
		return compose("  (edited: %s)", a.about(m.RelatesTo, p))
	}
	return compose("  (edits %s)", m.RelatesTo)
}

// belonging says what a message answers, and whether it is as it was at first.
func (a *app) belonging(m message, p *page) text {
	var said text
	switch {
	case m.RelatesTo == "":
	case m.Encrypted && m.Related != e2ee.Green:
		said = compose("  (answers %s, as the servers say)", m.RelatesTo) // the lock is of the text alone
	case m.Trust == e2ee.Red:
		said = compose("  (answers %s)", m.RelatesTo)
	default:
		said = compose("  (answers %s)", a.about(m.RelatesTo, p))
	}
	if m.edit != nil {
		said += "  (edited)"
	}
	return said
}

// asks is a request for a verification as text.
func (a *app) asks(m message) text {
	switch {
	case m.To == "":
		return "  (asks for a verification that makes no sense)"
	case !m.asksMe:
		return compose("  (asked %s to compare keys)", m.To)
	case a.chatting:
		return "  asks you to compare keys: /verify begins"
	}
	return compose("  asks you to compare keys: securecomm keys verify %s --live", m.Sender)
}

// lock shows how far a message is to be trusted: as a colour, or as a word where there are no colours.
func (a *app) lock(m message) text {
	var why text
	if m.Reason != "" && m.Trust != e2ee.Green {
		why = compose(": %s", m.Reason)
	}
	if !a.painted() {
		return compose("[%s%s]", m.Trust, why)
	}
	glyph := text("\U0001F512")
	if !m.Encrypted {
		glyph = "\U0001F513"
	}
	switch m.Trust {
	case e2ee.Green:
		return a.paint(colourGreen, glyph)
	case e2ee.Yellow:
		return a.paint(colourYellow, glyph+why)
	}
	return a.paint(colourRed, glyph+why)
}

// show writes one message, among those of a page; it may be nil.
func (a *app) show(m message, p *page) error {
	if a.json {
		return a.document(m)
	}
	return a.say("%s", a.line(m, p))
}

// showAll writes messages: with --json as they are, else each with what belongs to it.
func (a *app) showAll(messages []message, p *page) error {
	if !a.json {
		messages = nil
		for _, m := range p.lines {
			messages = append(messages, *m)
		}
	}
	for _, m := range messages {
		if err := a.show(m, p); err != nil {
			return err
		}
	}
	return nil
}

// maxBody bounds a message's text, in bytes; with encryption around it an event has to stay under 64 KiB.
const maxBody = 32 << 10

type textMessage struct {
	MsgType string `json:"msgtype"`
	Body    string `json:"body"`
}

func (a *app) send() *cobra.Command {
	var kind sendKind
	cmd := &cobra.Command{
		Use:   "send ROOM [TEXT...]",
		Short: "Send a message",
		Long: "Sends a message; without TEXT it is read from standard input. In an encrypted room it is\n" +
			"encrypted. A room that was encrypted once never gets plaintext from here, whatever a server says.",
		Example: "  securecomm send '!abc:one.example' 'Good morning'\n  date | securecomm send '!abc:one.example' --notice",
		Args:    argCount(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := strings.Join(args[1:], " ")
			if len(args) == 1 {
				data, err := io.ReadAll(io.LimitReader(a.in, maxBody+1))
				if err != nil {
					return fmt.Errorf("reading the message: %w", err)
				}
				body = strings.TrimRight(string(data), "\r\n")
			}
			content, err := kind.text(body)
			if err != nil {
				return err
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.roomNow(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				m, err := s.send(cmd.Context(), room, "m.room.message", client.NewTxnID(), content, kind.options())
				if err != nil {
					return err
				}
				return a.show(m, nil)
			})
		},
	}
	kind.flags(cmd)
	cmd.Flags().BoolVar(&kind.notice, "notice", false, "send it as a notice, as programs do")
	cmd.Flags().BoolVar(&kind.emote, "emote", false, "send it as what you do")
	return cmd
}

// sendKind is how a message is to be sent, from the flags.
type sendKind struct {
	notice, emote, verifiedOnly bool
}

func (k *sendKind) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&k.verifiedOnly, "verified-only", false, "let only verified devices decrypt it")
}

func (k *sendKind) options() sendOptions { return sendOptions{verifiedOnly: k.verifiedOnly} }

func (k *sendKind) text(body string) (textMessage, error) {
	switch {
	case body == "":
		return textMessage{}, fail(exitUsage, "write the text behind the room, or pipe it in", "the message is empty")
	case len(body) > maxBody:
		return textMessage{}, fail(exitUsage, `send it as a file with "securecomm upload"`, "the message is longer than %d bytes", maxBody)
	case !utf8.ValidString(body):
		return textMessage{}, fail(exitUsage, `send it as a file with "securecomm upload"`, "the message is not text in UTF-8")
	}
	content := textMessage{MsgType: "m.text", Body: body}
	if k.notice {
		content.MsgType = "m.notice"
	}
	if k.emote {
		content.MsgType = "m.emote"
	}
	return content, nil
}
