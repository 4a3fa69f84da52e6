package verify

import (
	"encoding/json"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/id"
)

// The types of messages.
const (
	TypeRequest = "m.key.verification.request"
	TypeReady   = "m.key.verification.ready"
	TypeStart   = "m.key.verification.start"
	TypeAccept  = "m.key.verification.accept"
	TypeKey     = "m.key.verification.key"
	TypeMAC     = "m.key.verification.mac"
	TypeDone    = "m.key.verification.done"
	TypeCancel  = "m.key.verification.cancel"
)

// The codes of cancellations.
const (
	CodeUser       = "m.user"
	CodeTimeout    = "m.timeout"
	CodeUnexpected = "m.unexpected_message"
	CodeMethod     = "m.unknown_method"
	CodeMalformed  = "m.invalid_message"
	CodeKey        = "m.key_mismatch"
	CodeText       = "m.mismatched_sas"
	CodeCommitment = "m.mismatched_commitment"
	CodeAccepted   = "m.accepted"
)

// MsgType is the msgtype of the message that asks in a room; there it takes the place of TypeRequest.
const MsgType = TypeRequest

// The one choice of algorithms that is spoken here, and that all current clients speak; of the codes that authenticate
// messages, older clients know only the one with a mistake in its base64.
const (
	method       = "m.sas.v1"
	keyAgreement = "curve25519-hkdf-sha256"
	hash         = "sha256"
	macMethod    = "hkdf-hmac-sha256.v2"
	oldMACMethod = "hkdf-hmac-sha256"
)

// macMethods are the codes that are known here, the best first: the old one is used only where the other side knows no
// better one.
var macMethods = []string{macMethod, oldMACMethod}

// reference is the relation of a room's event to the request.
const reference = "m.reference"

// maxContent is the largest content in bytes that is looked at, maxMACs how many keys one message may prove.
const (
	maxContent = 16 << 10
	maxMACs    = 20
)

// Message is what is to be sent to the other device, or into the room.
type Message struct {
	Type    string
	Content json.RawMessage
}

// content has the properties of all messages; each has some of them.
type content struct {
	Transaction string      `json:"transaction_id,omitempty"` // of messages to devices
	RelatesTo   *relation   `json:"m.relates_to,omitempty"`   // of events in a room
	From        id.DeviceID `json:"from_device,omitempty"`
	Methods     []string    `json:"methods,omitempty"`
	Timestamp   int64       `json:"timestamp,omitempty"`

	Method     string   `json:"method,omitempty"`
	Agreements []string `json:"key_agreement_protocols,omitempty"`
	Hashes     []string `json:"hashes,omitempty"`
	MACMethods []string `json:"message_authentication_codes,omitempty"`
	Texts      []string `json:"short_authentication_string,omitempty"`

	Agreement  string `json:"key_agreement_protocol,omitempty"`
	Hash       string `json:"hash,omitempty"`
	MACMethod  string `json:"message_authentication_code,omitempty"`
	Commitment string `json:"commitment,omitempty"`

	Key  string              `json:"key,omitempty"`
	MAC  map[id.KeyID]string `json:"mac,omitempty"`
	Keys string              `json:"keys,omitempty"`

	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`

	// Of a request in a room.
	MsgType string    `json:"msgtype,omitempty"`
	Body    string    `json:"body,omitempty"`
	To      id.UserID `json:"to,omitempty"`
}

type relation struct {
	Type  string     `json:"rel_type"`
	Event id.EventID `json:"event_id"`
}

func (c content) message(kind string) Message {
	raw, err := json.Marshal(c)
	if err != nil {
		panic("a struct of strings does not marshal: " + err.Error())
	}
	return Message{Type: kind, Content: raw}
}

// reasons say what a code means, for the log of the other side; what another side writes is not shown to users.
var reasons = map[string]string{
	CodeUser:       "the user cancelled the verification",
	CodeTimeout:    "the verification took too long",
	CodeUnexpected: "the message was not expected",
	CodeMethod:     "there is no method that both sides know",
	CodeMalformed:  "the message is malformed",
	CodeKey:        "a key is not the one that the other side has",
	CodeText:       "the texts are not the same",
	CodeCommitment: "the key is not the one that was committed to",
	CodeAccepted:   "another device took the request",
}

// Cancelled is the error that ends a conversation.
type Cancelled struct {
	Code   string
	Theirs bool // the other side cancelled
}

func (e *Cancelled) Error() string {
	reason, ok := reasons[e.Code]
	if !ok {
		reason = "for a reason that is not known here"
	}
	if e.Theirs {
		return "the other side cancelled the verification: " + reason
	}
	return "the verification is cancelled: " + reason
}

// parse reads a content.
func parse(raw json.RawMessage) (content, error) {
	var c content
	if len(raw) > maxContent || json.Unmarshal(raw, &c) != nil || len(c.Transaction) > 255 || len(c.From) > 255 {
		return content{}, fmt.Errorf("reading a message of a verification: %w", &Cancelled{Code: CodeMalformed})
	}
	return c, nil
}

// InRoom is the event of the request that a room's event of a verification belongs to; empty if there is none.
func InRoom(raw json.RawMessage) id.EventID {
	c, err := parse(raw)
	if err != nil || c.RelatesTo == nil || c.RelatesTo.Type != reference || len(c.RelatesTo.Event) > 255 {
		return ""
	}
	return c.RelatesTo.Event
}

// Asks reads a message that asks in a room: whom, and from which device. It is asked for by nobody else.
func Asks(raw json.RawMessage) (to id.UserID, from id.DeviceID, ok bool) {
	c, err := parse(raw)
	if err != nil || c.MsgType != MsgType || c.To == "" || c.From == "" {
		return "", "", false
	}
	return c.To, c.From, true
}

// From is the device that a message names as its sender; empty if it names none.
func From(raw json.RawMessage) id.DeviceID {
	c, err := parse(raw)
	if err != nil {
		return ""
	}
	return c.From
}
