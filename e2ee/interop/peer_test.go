package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// peer is the Node process with the other implementations.
type peer struct {
	t       testing.TB
	mu      sync.Mutex
	encoder *json.Encoder
	decoder *json.Decoder
}

// refused is an error of the other implementation, in its own words.
type refused string

func (r refused) Error() string { return string(r) }

func startPeer(t testing.TB) *peer {
	t.Helper()
	var err error
	for _, library := range []string{"olm", "matrix-sdk-crypto-wasm"} {
		_, missing := os.Stat(filepath.Join("node_modules", "@matrix-org", library, "package.json"))
		err = errors.Join(err, missing)
	}
	node, nodeErr := exec.LookPath("node")
	switch {
	case nodeErr == nil && err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("the other implementations are missing: %v", errors.Join(err, nodeErr))
	case nodeErr != nil || errors.Is(err, fs.ErrNotExist):
		t.Skip(`the other implementations are missing: run "npm install --package-lock=false" in e2ee/interop`)
	default:
		t.Fatal(err)
	}
	process := exec.Command(node, "peer.mjs")
	var said bytes.Buffer
	process.Stderr = &said
	in, err := process.StdinPipe()
	must(t, err)
	out, err := process.StdoutPipe()
	must(t, err)
	must(t, process.Start())
	t.Cleanup(func() {
		in.Close() // its input's end is its end
		if err := process.Wait(); err != nil {
			t.Errorf("the peer ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the peer said: %s", said.Bytes()[max(0, said.Len()-4000):])
		}
	})
	return &peer{t: t, encoder: json.NewEncoder(in), decoder: json.NewDecoder(out)}
}

type args = map[string]any

// try asks the peer to do something; the error is a refusal.
func (p *peer) try(do string, with args, value any) error {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	must(p.t, p.encoder.Encode(args{"do": do, "with": with}))
	var answer struct {
		Value json.RawMessage `json:"value"`
		Error refused         `json:"error"`
	}
	if err := p.decoder.Decode(&answer); err != nil {
		p.t.Fatalf("%s: the peer did not answer: %v", do, err)
	}
	if answer.Error != "" {
		return answer.Error
	}
	if value != nil {
		must(p.t, json.Unmarshal(answer.Value, value))
	}
	return nil
}

func (p *peer) do(do string, with args, value any) {
	p.t.Helper()
	if err := p.try(do, with, value); err != nil {
		p.t.Fatalf("%s: %v", do, err)
	}
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
	p.do("olm.make", args{"name": name}, o)
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
	return o.p.try("olm.call", args{"on": o.Handle, "name": name, "args": with}, value)
}

// text calls a method that answers a string.
func (o *object) text(name string, with ...any) (s string) {
	o.p.t.Helper()
	o.call(name, &s, with...)
	return s
}

// bytesArgument is bytes on the other side.
func bytesArgument(b []byte) args { return args{"base64": encode(b)} }
