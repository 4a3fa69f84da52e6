package interop

import (
	"encoding/base64"
	"testing"

	"github.com/securecomm/securecomm/homeserver/interop/peertest"
)

// peer is the Node process with the other implementations.
type peer struct {
	*peertest.Peer
	t testing.TB
}

type (
	args    = peertest.Args
	refused = peertest.Refused
)

func startPeer(t testing.TB) *peer {
	t.Helper()
	peertest.Need(t, `run "npm ci" in e2ee/interop`,
		"node", "node_modules/@matrix-org/olm/package.json", "node_modules/@matrix-org/matrix-sdk-crypto-wasm/package.json")
	return &peer{Peer: peertest.Start(t, "node", "peer.mjs"), t: t}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func decode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	must(t, err)
	return b
}

// object is an object of libolm.
type object struct {
	p      *peer
	Handle int `json:"handle"`
}

func (p *peer) object(name string) *object {
	p.t.Helper()
	o := &object{p: p}
	p.Do("olm.make", args{"name": name}, o)
	return o
}

// call calls a method; what is an object here is one there.
func (o *object) call(name string, value any, with ...any) {
	o.p.t.Helper()
	if err := o.try(name, value, with...); err != nil {
		o.p.t.Fatalf("%s: %v", name, err)
	}
}

func (o *object) try(name string, value any, with ...any) error {
	o.p.t.Helper()
	if with == nil {
		with = []any{}
	}
	return o.p.Try("olm.call", args{"on": o.Handle, "name": name, "args": with}, value)
}

// text calls a method that answers a string.
func (o *object) text(name string, with ...any) (s string) {
	o.p.t.Helper()
	o.call(name, &s, with...)
	return s
}

// bytesArgument is bytes on the other side.
func bytesArgument(b []byte) args { return args{"base64": encode(b)} }
