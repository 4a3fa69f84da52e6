package xmatrix

import (
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// ErrOtherDestination says that a request was signed for a server that is not the one that got it.
var ErrOtherDestination = errors.New("the request is signed for another destination")

// Request is what a signature covers, besides the two servers.
type Request struct {
	Method string
	// URI is the target as it stands in the request line: escaped path and query, without scheme and host.
	URI string
	// Content is the JSON body; nil for requests without one.
	Content []byte
}

// Sign makes the Authorization header of a request from one server to another. Both names are those from
// before any delegation.
func Sign(r Request, origin, destination id.ServerName, key sign.Key) (string, error) {
	message, err := r.message(origin, destination)
	if err != nil {
		return "", fmt.Errorf("signing a request to %s: %w", destination, err)
	}
	return Header{Origin: origin, Destination: destination, Key: key.ID, Signature: key.Sign(message)}.String(), nil
}

// Verify checks the signature of a request that reached the server called self. The key must be the one
// that the header names, of the server that it names as origin, and valid now. The errors are
// ErrOtherDestination, sign.ErrBadSignature, and canonicaljson.ErrInvalid for content that is no JSON.
func Verify(h Header, r Request, self id.ServerName, key sign.PublicKey) error {
	if h.Destination != "" && h.Destination != self {
		return fmt.Errorf("verifying a request of %s: %w", h.Origin, ErrOtherDestination)
	}
	message, err := r.message(h.Origin, h.Destination)
	if err != nil {
		return fmt.Errorf("verifying a request of %s: %w", h.Origin, err)
	}
	if err := sign.Verify(key, message, h.Signature); err != nil {
		return fmt.Errorf("verifying a request of %s: %w", h.Origin, err)
	}
	return nil
}

// message is the canonical JSON to sign, written in the order of its keys. Numbers in the content are
// taken as they are: a request may carry events of old room versions, in which anything was allowed.
func (r Request) message(origin, destination id.ServerName) ([]byte, error) {
	m := make([]byte, 0, len(r.Content)+len(r.URI)+256)
	m = append(m, '{')
	if r.Content != nil {
		content, err := canonicaljson.CanonicalizeLenient(r.Content)
		if err != nil {
			return nil, err
		}
		m = append(append(append(m, `"content":`...), content...), ',')
	}
	if destination != "" {
		m = append(appendMember(m, "destination", string(destination)), ',')
	}
	m = append(appendMember(m, "method", r.Method), ',')
	m = append(appendMember(m, "origin", string(origin)), ',')
	return append(appendMember(m, "uri", r.URI), '}'), nil
}

func appendMember(m []byte, name, value string) []byte {
	m = append(append(append(m, '"'), name...), `":`...)
	return canonicaljson.AppendString(m, value)
}
