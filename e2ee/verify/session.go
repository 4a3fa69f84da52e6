package verify

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Party is one of the two devices.
type Party struct {
	User   id.UserID
	Device id.DeviceID
}

// Freshness is how old a request may be, and how long a conversation may take from there; MaxAhead is how far the clock
// of the other side may be ahead.
const (
	Freshness = 10 * time.Minute
	MaxAhead  = 5 * time.Minute
)

// state is what is waited for.
type state int

const (
	awaitReady state = iota
	awaitStart
	awaitAccept
	awaitKey
	awaitUser // and perhaps their MAC, if they were faster
	awaitMAC
	awaitDone
	ended
)

// Session is one conversation. It belongs to one goroutine.
type Session struct {
	own, other  Party
	transaction string // in a room, the event of the request
	room        bool
	macMethod   string
	expires     time.Time
	state       state
	weStarted   bool
	start       []byte // the content of m.key.verification.start, canonical
	private     *ecdh.PrivateKey
	public      string
	theirs      string // their public key
	commitment  string
	shared      []byte
	expected    Keys
	proof       *content // their MAC, if it came before the user had compared
	proven      []id.KeyID
	theirsDone  bool
}

func newSession(own Party, other Party, transaction string, asked time.Time) *Session {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("no random numbers: " + err.Error()) // crypto/rand never fails on supported systems
	}
	return &Session{own: own, other: other, transaction: transaction, expires: asked.Add(Freshness),
		private: private, public: wire.Base64(private.PublicKey().Bytes())}
}

// Request asks a user's devices for a conversation; the message goes to all of them. Whichever answers first is the
// other side.
func Request(own Party, user id.UserID, now time.Time) (*Session, Message) {
	s := newSession(own, Party{User: user}, rand.Text(), now)
	c := s.content()
	c.From, c.Methods, c.Timestamp = own.Device, []string{method}, now.UnixMilli()
	return s, c.message(TypeRequest)
}

// RequestInRoom asks a user in a room that they share. Sent has to follow.
func RequestInRoom(own Party, user id.UserID, now time.Time) (*Session, Message) {
	s := newSession(own, Party{User: user}, "", now)
	s.room = true
	c := content{From: own.Device, Methods: []string{method}, MsgType: MsgType, To: user,
		Body: string(own.User) + " asks to verify each other's keys, which your client can not do in a room."}
	return s, c.message("m.room.message")
}

// Sent says which event the request in a room became.
func (s *Session) Sent(event id.EventID) { s.transaction = string(event) }

// Accept takes a request of a user. Requests that are too old, or from the future, are refused.
func Accept(own Party, sender id.UserID, request json.RawMessage, now time.Time) (*Session, Message, error) {
	c, err := parse(request)
	if err == nil && c.Transaction == "" {
		err = fmt.Errorf("accepting a verification: %w", &Cancelled{Code: CodeMalformed})
	}
	if err != nil {
		return nil, Message{}, err
	}
	return accept(own, sender, &c, newSession(own, Party{sender, c.From}, c.Transaction, time.UnixMilli(c.Timestamp)), now)
}

// AcceptInRoom takes a request of a user in a room: an event, and when its server says that it was sent.
func AcceptInRoom(own Party, sender id.UserID, event id.EventID, request json.RawMessage, at, now time.Time) (*Session, Message, error) {
	c, err := parse(request)
	if err == nil && (c.MsgType != MsgType || c.To != own.User || sender == own.User || event == "" || len(event) > 255) {
		err = fmt.Errorf("accepting a verification: %w", &Cancelled{Code: CodeMalformed})
	}
	if err != nil {
		return nil, Message{}, err
	}
	s := newSession(own, Party{sender, c.From}, string(event), at)
	s.room = true
	return accept(own, sender, &c, s, now)
}

func accept(own Party, sender id.UserID, c *content, s *Session, now time.Time) (*Session, Message, error) {
	switch {
	case c.From == "" || sender == own.User && c.From == own.Device:
		return nil, Message{}, fmt.Errorf("accepting a verification: %w", &Cancelled{Code: CodeMalformed})
	case !now.Before(s.expires) || s.expires.Sub(now) > Freshness+MaxAhead:
		return nil, Message{}, fmt.Errorf("accepting a verification: %w", &Cancelled{Code: CodeTimeout})
	case !slices.Contains(c.Methods, method):
		return nil, Message{}, fmt.Errorf("accepting a verification: %w", &Cancelled{Code: CodeMethod})
	}
	s.state = awaitStart
	ready := s.content()
	ready.From, ready.Methods = own.Device, []string{method}
	return s, ready.message(TypeReady), nil
}

// Other is the other side; without a device until one has answered.
func (s *Session) Other() Party { return s.other }

// ID is the transaction's ID; in a room it is the event of the request.
func (s *Session) ID() string { return s.transaction }

// Expires is when the conversation has taken too long.
func (s *Session) Expires() time.Time { return s.expires }

// Comparable says that the users can compare the texts now.
func (s *Session) Comparable() bool { return s.shared != nil && s.state == awaitUser }

// Done says that both sides are through.
func (s *Session) Done() bool { return s.state == ended && s.proven != nil }

// Ended says that the conversation is over, well or not.
func (s *Session) Ended() bool { return s.state == ended }

// Proven are the keys that the other side has proven to hold the same of, once their proof was checked.
func (s *Session) Proven() []id.KeyID { return s.proven }

func (s *Session) content() content {
	if s.room {
		return content{RelatesTo: &relation{reference, id.EventID(s.transaction)}}
	}
	return content{Transaction: s.transaction}
}

// Abandon ends a conversation in a room of which nothing is known here any more.
func Abandon(request id.EventID) Message {
	s := Session{room: true, transaction: string(request)}
	return s.Cancel(CodeUser)
}

// belongs says whether a content is one of this conversation.
func (s *Session) belongs(c *content) bool {
	if s.room {
		return c.RelatesTo != nil && c.RelatesTo.Type == reference && string(c.RelatesTo.Event) == s.transaction && s.transaction != ""
	}
	return c.Transaction == s.transaction
}

// Taken tells the devices that were asked too that another one has taken the request.
func Taken(transaction string) Message {
	return content{Transaction: transaction, Code: CodeAccepted, Reason: reasons[CodeAccepted]}.message(TypeCancel)
}

// Cancel ends the conversation.
func (s *Session) Cancel(code string) Message {
	s.end()
	c := s.content()
	c.Code, c.Reason = code, reasons[code]
	return c.message(TypeCancel)
}

// end ends it without a result.
func (s *Session) end() { s.state, s.shared, s.proven = ended, nil, nil }

// Handle takes a message of the other user in this transaction. The answers are to be sent to the other device even
// if there is an error, which is a *Cancelled and ends the conversation.
func (s *Session) Handle(kind string, raw json.RawMessage) (answers []Message, err error) {
	if s.state == ended {
		return nil, nil
	}
	c, err := parse(raw)
	if err == nil && !s.belongs(&c) {
		return nil, nil // of another conversation
	}
	if err == nil && kind == TypeCancel {
		s.end()
		return nil, &Cancelled{Code: c.Code, Theirs: true}
	}
	code := CodeMalformed
	if err == nil {
		answers, code = s.advance(kind, &c, raw)
	}
	if code != "" {
		return append(answers, s.Cancel(code)), &Cancelled{Code: code}
	}
	return answers, nil
}

// advance makes one step; the code is why there is none.
func (s *Session) advance(kind string, c *content, raw json.RawMessage) (answers []Message, code string) {
	switch {
	case kind == TypeReady && s.state == awaitReady:
		return s.ready(c)
	case kind == TypeReady && s.room && c.From != s.other.Device:
		return nil, "" // another device of theirs was slower; in a room everybody hears everything
	case kind == TypeStart && s.state == awaitStart, kind == TypeStart && s.state == awaitAccept && s.yields(c):
		return s.started(c, raw)
	case kind == TypeStart && s.state == awaitAccept:
		return nil, "" // both have started, and ours counts
	case kind == TypeAccept && s.state == awaitAccept:
		return s.accepted(c)
	case kind == TypeKey && s.state == awaitKey:
		return s.keyed(c)
	case kind == TypeMAC && s.state == awaitUser && s.proof == nil:
		s.proof = c
		return nil, ""
	case kind == TypeMAC && s.state == awaitMAC:
		return s.check(c)
	case kind == TypeDone && s.state == awaitDone:
		s.state = ended
		return nil, ""
	case kind == TypeDone && s.state == awaitMAC:
		s.theirsDone = true // they have checked our proof before we have theirs
		return nil, ""
	}
	return nil, CodeUnexpected
}

// Start begins the comparison from the side that was asked, if the asking one does not.
func (s *Session) Start() Message {
	c := s.content()
	c.From, c.Method, c.Agreements, c.Hashes, c.MACMethods = s.own.Device, method, []string{keyAgreement}, []string{hash}, macMethods
	c.Texts = []string{"decimal", "emoji"}
	m := c.message(TypeStart)
	s.start, s.weStarted, s.state = canonical(m.Content), true, awaitAccept
	return m
}

func (s *Session) ready(c *content) ([]Message, string) {
	if c.From == "" || s.other.User == s.own.User && c.From == s.own.Device {
		return nil, CodeMalformed
	}
	if !slices.Contains(c.Methods, method) {
		return nil, CodeMethod
	}
	s.other.Device = c.From
	return []Message{s.Start()}, ""
}

// yields says that both have started and theirs counts: that of the smaller user, or device.
func (s *Session) yields(c *content) bool {
	if s.other.User != s.own.User {
		return s.other.User < s.own.User
	}
	return c.From < s.own.Device
}

func (s *Session) started(c *content, raw json.RawMessage) ([]Message, string) {
	s.start = canonical(raw)
	known := slices.IndexFunc(macMethods, func(m string) bool { return slices.Contains(c.MACMethods, m) })
	switch {
	case s.start == nil || c.From != s.other.Device:
		return nil, CodeMalformed
	case c.Method != method || !slices.Contains(c.Agreements, keyAgreement) || !slices.Contains(c.Hashes, hash) ||
		known < 0 || !slices.Contains(c.Texts, "decimal"):
		return nil, CodeMethod
	}
	s.weStarted, s.state, s.macMethod = false, awaitKey, macMethods[known]
	a := s.content()
	a.Agreement, a.Hash, a.MACMethod, a.Texts = keyAgreement, hash, s.macMethod, []string{"decimal"}
	if slices.Contains(c.Texts, "emoji") {
		a.Texts = append(a.Texts, "emoji")
	}
	a.Commitment = commit(s.public, s.start)
	return []Message{a.message(TypeAccept)}, ""
}

func (s *Session) accepted(c *content) ([]Message, string) {
	if c.Agreement != keyAgreement || c.Hash != hash || !slices.Contains(macMethods, c.MACMethod) || !slices.Contains(c.Texts, "decimal") {
		return nil, CodeMethod
	}
	s.commitment, s.macMethod, s.state = c.Commitment, c.MACMethod, awaitKey
	return []Message{s.key()}, ""
}

func (s *Session) key() Message {
	c := s.content()
	c.Key = s.public
	return c.message(TypeKey)
}

// keyed takes their key. Who has accepted shows the own key only after that: it is committed to it already, so that
// neither side can choose its key after the other's.
func (s *Session) keyed(c *content) (answers []Message, code string) {
	if s.weStarted && !hmac.Equal([]byte(commit(c.Key, s.start)), []byte(strings.TrimRight(s.commitment, "="))) {
		return nil, CodeCommitment
	}
	raw, err := wire.DecodeKey(c.Key)
	if err != nil {
		return nil, CodeMalformed
	}
	public, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil, CodeMalformed
	}
	if s.shared, err = s.private.ECDH(public); err != nil {
		s.shared = nil
		return nil, CodeMalformed // a key of low order
	}
	s.theirs, s.state = c.Key, awaitUser
	if !s.weStarted {
		answers = append(answers, s.key())
	}
	return answers, ""
}

func commit(public string, start []byte) string {
	sum := sha256.Sum256(append([]byte(public), start...))
	return wire.Base64(sum[:])
}

func canonical(raw json.RawMessage) []byte {
	out, err := canonicaljson.Canonicalize(raw)
	if err != nil {
		return nil
	}
	return out
}
