package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// fileKey opens fast; the tests of Argon2id use a passphrase.
func fileKey(t testing.TB) Key {
	t.Helper()
	key, err := KeyFile(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t testing.TB, path string, key Key) *Vault {
	t.Helper()
	v, err := Open(path, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func put(t testing.TB, v *Vault, key, value string) {
	t.Helper()
	if err := v.Update(func(tx *Tx) error { tx.Put(key, []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, v *Vault, key, value string) {
	t.Helper()
	if got, ok := v.Get(key); !ok || string(got) != value {
		t.Errorf("%s is %q, %v; want %q", key, got, ok, value)
	}
}

func TestVault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault")
	pass, err := Passphrase("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, path, pass)
	put(t, v, "a/1", "the secret text")
	put(t, v, "a/2", "")
	put(t, v, "b", "x")
	failed := errors.New("no")
	err = v.Update(func(tx *Tx) error {
		tx.Put("a/3", []byte("y"))
		tx.Delete("a/1")
		if got := strings.Join(tx.Keys("a/"), " "); got != "a/2 a/3" {
			t.Errorf("the transaction sees %s", got)
		}
		return failed
	})
	if err != failed {
		t.Error(err)
	}
	if _, err := Open(path, pass); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	v.Close()
	if err := v.Update(func(tx *Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed vault: %v", err)
	}
	v = open(t, path, pass)
	want(t, v, "a/1", "the secret text")
	want(t, v, "a/2", "")
	if got := strings.Join(v.Keys("a/"), " "); got != "a/1 a/2" {
		t.Errorf("keys are %s", got)
	}
	content, err := os.ReadFile(path)
	if err != nil || bytes.Contains(content, []byte("secret")) || bytes.Contains(content, []byte("a/1")) {
		t.Errorf("the file shows what is in it, or is not there: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}

	other := fileKey(t)
	if err := v.ChangeKey(other); err != nil {
		t.Fatal(err)
	}
	put(t, v, "b", "z")
	v.Close()
	if _, err := Open(path, pass); !errors.Is(err, ErrWrongKey) {
		t.Errorf("the old passphrase: %v", err)
	}
	if _, err := Open(path, fileKey(t)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key file: %v", err)
	}
	v = open(t, path, other)
	want(t, v, "a/1", "the secret text")
	want(t, v, "b", "z")
}

// TestCut cuts the file at every length: what was committed before the cut must be there, and no half of
// a transaction.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	path, key := filepath.Join(dir, "vault"), fileKey(t)
	v := open(t, path, key)
	ends := []int64{v.size}
	for i := range 5 {
		if err := v.Update(func(tx *Tx) error {
			tx.Put("one", fmt.Append(nil, i))
			tx.Put("two", fmt.Append(nil, i))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, v.size)
	}
	v.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := ends[0]; cut <= int64(len(content)); cut++ {
		for _, tail := range []int{0, 9} {
			broken := append(content[:cut:cut], make([]byte, tail)...)
			whole := 0 // of which the last bytes may be zeros, too
			for whole < 5 && bytes.HasPrefix(broken, content[:ends[whole+1]]) {
				whole++
			}
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			v := open(t, path, key)
			if whole > 0 {
				want(t, v, "one", fmt.Sprint(whole-1))
				want(t, v, "two", fmt.Sprint(whole-1))
			} else if len(v.Keys("")) != 0 {
				t.Error("something is there before anything was written")
			}
			if v.Recovered() != (int64(len(broken)) != ends[whole]) {
				t.Errorf("cut at %d with %d zeros: recovered is %v", cut, tail, v.Recovered())
			}
			put(t, v, "three", "3")
			v.Close()
			v = open(t, path, key)
			want(t, v, "three", "3")
			v.Close()
		}
	}
}

func TestChangedFile(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "vault"), fileKey(t)
	v := open(t, path, key)
	start := v.size
	put(t, v, "one", "1")
	second := v.size
	put(t, v, "two", "2")
	v.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frames := content[start:]
	first := second - start
	for what, broken := range map[string][]byte{
		"a changed frame":    append(append([]byte{}, content[:start+30]...), append([]byte{content[start+30] ^ 1}, content[start+31:]...)...),
		"frames exchanged":   append(append(append([]byte{}, content[:start]...), frames[first:]...), frames[:first]...),
		"a frame twice":      append(append(append([]byte{}, content[:second]...), frames[:first]...), frames[first:]...),
		"a changed last one": append(append([]byte{}, content[:len(content)-3]...), 1, 2, 3),
		"not a vault at all": []byte("something else\n"),
		"an empty file":      {},
	} {
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := Open(path, key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, %v", what, v, err)
		}
	}
}

// TestChangedLength flips every bit of the heads of all frames: none of what follows may be taken for what a crash cut
// off.
func TestChangedLength(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "vault"), fileKey(t)
	v := open(t, path, key)
	var starts []int64
	for i := range 3 {
		starts = append(starts, v.size)
		put(t, v, "one", fmt.Sprint(i))
	}
	v.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range starts {
		for bit := range 8 * int64(frameHead) {
			broken := bytes.Clone(content)
			broken[start+bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			if v, err := Open(path, key); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %d of the frame at %d: %v, %v", bit, start, v, err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, broken) {
				t.Fatalf("bit %d of the frame at %d: the file was changed: %v", bit, start, err)
			}
		}
	}
	if Exists(Torn(path)) {
		t.Error("something was kept aside")
	}
	old := append([]byte("SecureComm vault 1\n"), content[len(magic):]...)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := Open(path, key); !errors.Is(err, ErrVersion) {
		t.Errorf("a vault of another format: %v, %v", v, err)
	}
}

// TestTorn opens a vault that a crash cut twice: what is cut off is kept, for its owner only.
func TestTorn(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "vault"), fileKey(t)
	for _, cut := range []int64{5, 40} {
		v := open(t, path, key)
		put(t, v, "one", "before")
		end := v.size
		put(t, v, "one", fmt.Sprint("cut off ", cut))
		v.Close()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content[:end+cut], 0o600); err != nil {
			t.Fatal(err)
		}
		v = open(t, path, key)
		want(t, v, "one", "before")
		if !v.Recovered() {
			t.Error("the owner is not told")
		}
		put(t, v, "one", "after")
		v.Close()
		kept, err := os.ReadFile(Torn(path))
		if err != nil || !bytes.Equal(kept, content[end:end+cut]) {
			t.Errorf("kept aside: %d bytes of %d, %v", len(kept), cut, err)
		}
		if info, err := os.Stat(Torn(path)); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info, err)
		}
	}
}

func TestCompaction(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "vault"), fileKey(t)
	v := open(t, path, key)
	big := make([]byte, 10_000)
	expected := map[string]string{}
	for i := range 400 {
		for j := range big {
			big[j] = byte(rand.Uint32())
		}
		k := fmt.Sprint(i % 7)
		put(t, v, k, string(big))
		expected[k] = string(big)
	}
	if v.size > compactFrom+100_000 {
		t.Errorf("the file has %d bytes for %d records", v.size, len(expected))
	}
	v.Close()
	v = open(t, path, key)
	got := map[string]string{}
	for _, k := range v.Keys("") {
		value, _ := v.Get(k)
		got[k] = string(value)
	}
	if !maps.Equal(got, expected) {
		t.Error("compaction lost something")
	}
	if names, _ := filepath.Glob(path + leftover); len(names) != 0 {
		t.Errorf("left over: %v", names)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	a, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := KeyFile(path); err != nil || !bytes.Equal(a.raw, b.raw) {
		t.Errorf("a key file reads differently: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(path); !errors.Is(err, ErrOpenKeyFile) {
		t.Errorf("mode 0640: %v", err)
	}
	giant := derivation{Kind: "argon2id", Salt: make([]byte, 16), Time: 1, Memory: maxArgonMemory + 1, Threads: 1}
	if _, err := giant.key(Key{passphrase: []byte("p")}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("memory over the limit: %v", err)
	}
	if _, err := Passphrase(""); err == nil {
		t.Error("an empty passphrase was taken")
	}
}

func FuzzFile(f *testing.F) {
	raw := make([]byte, keySize)
	key := Key{raw: raw}
	k, err := newKeys(key)
	if err != nil {
		f.Fatal(err)
	}
	head, err := sealHeader(k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := openHeader(b, key)
		if err == nil && !bytes.Equal(got.master, k.master) {
			t.Error("a header that nobody sealed opens")
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrWrongKey) {
			t.Error(err)
		}
	})
}

func FuzzTransaction(f *testing.F) {
	f.Add(encodeChanges(map[string][]byte{"a": []byte("1"), "b": nil, "c": {}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, err := decodeChanges(b)
		if err != nil {
			return
		}
		again, err := decodeChanges(encodeChanges(changes))
		if err != nil || !maps.EqualFunc(changes, again, func(a, b []byte) bool {
			return bytes.Equal(a, b) && (a == nil) == (b == nil)
		}) {
			t.Errorf("a transaction is not the same when written again: %v", err)
		}
	})
}

// FuzzFrames damages what follows the header of a file. What opens then must be the transactions from the first up to
// some later one, unchanged: a damaged file must not look like another state.
func FuzzFrames(f *testing.F) {
	raw := make([]byte, keySize)
	k, err := newKeys(Key{raw: raw})
	if err != nil {
		f.Fatal(err)
	}
	aead, err := chacha20poly1305.NewX(k.master)
	if err != nil {
		f.Fatal(err)
	}
	var genuine []byte
	for i := range 3 {
		frame, err := sealFrame(aead, uint64(i), map[string][]byte{"n": {byte(i)}})
		if err != nil {
			f.Fatal(err)
		}
		genuine = append(genuine, frame...)
	}
	f.Add(0, []byte{})
	f.Add(len(genuine)/2, []byte{1})
	f.Add(len(genuine)-1, []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, at int, damage []byte) {
		at = min(max(at, 0), len(genuine))
		rest := slices.Concat(genuine[:at], damage)
		if at+len(damage) < len(genuine) {
			rest = append(rest, genuine[at+len(damage):]...)
		}
		for number := uint64(0); ; number++ {
			changes, next, err := openFrame(aead, number, rest)
			if err != nil {
				if err != io.EOF && !errors.Is(err, errTorn) && !errors.Is(err, ErrCorrupt) {
					t.Error(err)
				}
				return
			}
			if number > 2 || len(changes) != 1 || !bytes.Equal(changes["n"], []byte{byte(number)}) {
				t.Fatalf("transaction %d is %v", number, changes)
			}
			rest = next
		}
	})
}
