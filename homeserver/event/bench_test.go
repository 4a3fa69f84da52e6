package event

import (
	"strings"
	"testing"
)

func benchMessage() Proto {
	p := message(`{"body":"` + strings.Repeat("hello ", 20) + `","msgtype":"m.text"}`)
	p.PrevEvents[0] = "$1234567890123456789012345678901234567890123"
	return p
}

func BenchmarkBuild(b *testing.B) {
	v, key, p := version(b, "12"), vectorKey(b), benchMessage()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(v, p, "domain", key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignature is what of BenchmarkBuild goes into the signature alone.
func BenchmarkSignature(b *testing.B) {
	key := vectorKey(b)
	message := mustBuild(b, version(b, "12"), benchMessage()).JSON
	for b.Loop() {
		key.Sign(message)
	}
}

func BenchmarkParse(b *testing.B) {
	v := version(b, "12")
	raw := mustBuild(b, v, benchMessage()).JSON
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(v, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseTrusted(b *testing.B) {
	v := version(b, "12")
	e := mustBuild(b, v, benchMessage())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTrusted(v, e.ID, e.JSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	e, keys := mustBuild(b, version(b, "12"), benchMessage()), keysOf(b)
	for b.Loop() {
		if _, err := Verify(e, keys); err != nil {
			b.Fatal(err)
		}
	}
}
