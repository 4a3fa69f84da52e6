package vault

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

var (
	// ErrWrongKey says that the passphrase or key file does not open the vault.
	ErrWrongKey = errors.New("wrong passphrase or key file")
	// ErrLocked says that another process has the vault open.
	ErrLocked = errors.New("the vault is in use by another process")
	// ErrCorrupt says that the file is not a vault, or was changed.
	ErrCorrupt = errors.New("the vault is damaged")
	// ErrVersion says that the file is a vault of a format that is not read here.
	ErrVersion = errors.New("the vault has the format of another version of the program")
	// ErrClosed says that the vault was closed, or that a write failed before: what is on disk is then
	// unknown, and only opening it anew can tell.
	ErrClosed = errors.New("the vault is closed")
)

// compactFrom is the size in bytes from which on a file that is mostly outdated is written anew.
const compactFrom = 1 << 20

// Vault is an open vault. Its methods may be called from several goroutines.
type Vault struct {
	path   string
	locked *os.File

	updating sync.Mutex // one Update at a time
	mu       sync.RWMutex
	records  map[string][]byte

	// What follows is guarded by updating.
	file      *os.File
	size      int64 // of the file
	live      int64 // about what the file would have if written anew
	compactAt int64 // the size from which on to think about writing it anew
	number    uint64
	aead      cipher.AEAD
	keys      keys
	recovered bool
}

// Exists says whether there is a vault at a path.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Open opens the vault at a path, or makes one there. Only one process can have it open.
func Open(path string, key Key) (*Vault, error) {
	locked, err := lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	v := &Vault{path: path, locked: locked, records: map[string][]byte{}, compactAt: compactFrom}
	content, err := os.ReadFile(path)
	removeLeftovers(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = v.create(key)
	case err == nil:
		err = v.load(content, key)
	}
	if err != nil {
		locked.Close()
		return nil, fmt.Errorf("opening the vault: %w", err)
	}
	return v, nil
}

// Close lets others open the vault.
func (v *Vault) Close() error {
	v.updating.Lock()
	defer v.updating.Unlock()
	if v.locked == nil {
		return nil
	}
	var err error
	if v.file != nil {
		err = v.file.Close()
	}
	err = errors.Join(err, v.locked.Close())
	v.file, v.locked = nil, nil
	return err
}

// Recovered says whether opening had to drop a transaction that a crash had cut off. What there was of it is in the
// file Torn, still sealed.
func (v *Vault) Recovered() bool { return v.recovered }

// Torn is where what was cut off the vault at a path is kept aside: the last such piece.
func Torn(path string) string { return path + ".torn" }

// Get is a record. The caller must not change the bytes.
func (v *Vault) Get(key string) ([]byte, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	value, ok := v.records[key]
	return value, ok
}

// Keys are all keys with a prefix, sorted.
func (v *Vault) Keys(prefix string) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var keys []string
	for key := range v.records {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Tx is a transaction: it sees its own changes at once, others see them when Update has returned.
type Tx struct {
	vault   *Vault
	changes map[string][]byte
}

// Get is a record as this transaction has it.
func (tx *Tx) Get(key string) ([]byte, bool) {
	if value, ok := tx.changes[key]; ok {
		return value, value != nil
	}
	return tx.vault.Get(key)
}

// Put sets a record; the bytes belong to the vault from now on.
func (tx *Tx) Put(key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	tx.changes[key] = value
}

// Delete removes a record, if there.
func (tx *Tx) Delete(key string) { tx.changes[key] = nil }

// Keys are all keys with a prefix as this transaction has them, sorted.
func (tx *Tx) Keys(prefix string) []string {
	keys := tx.vault.Keys(prefix)
	keys = slices.DeleteFunc(keys, func(key string) bool { _, ok := tx.changes[key]; return ok })
	for key, value := range tx.changes {
		if value != nil && strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Update runs change and writes what it did, all or nothing, before it returns. If change fails, or
// changes nothing, nothing is written.
func (v *Vault) Update(change func(*Tx) error) error {
	v.updating.Lock()
	defer v.updating.Unlock()
	if v.file == nil {
		return ErrClosed
	}
	tx := &Tx{vault: v, changes: map[string][]byte{}}
	if err := change(tx); err != nil {
		return err
	}
	maps.DeleteFunc(tx.changes, func(key string, value []byte) bool {
		old, had := v.Get(key)
		return value == nil && !had || value != nil && had && bytes.Equal(old, value)
	})
	if len(tx.changes) == 0 {
		return nil
	}
	if err := v.write(tx.changes); err != nil {
		return fmt.Errorf("writing the vault: %w", err)
	}
	if v.size <= v.compactAt || v.size <= 4*v.live {
		return nil
	}
	if err := v.rewrite(v.keys); err != nil {
		// The change itself is on disk. If the old file is still there, it goes on with that, and tries
		// again when it has grown; else the vault has closed itself.
		v.compactAt = 2 * v.size
	}
	return nil
}

// ChangeKey makes the vault open with another passphrase or key file.
func (v *Vault) ChangeKey(key Key) error {
	v.updating.Lock()
	defer v.updating.Unlock()
	if v.file == nil {
		return ErrClosed
	}
	// A new master key too: whoever knew the old passphrase might have kept the old one.
	k, err := newKeys(key)
	if err == nil {
		err = v.rewrite(k)
	}
	if err != nil {
		return fmt.Errorf("changing the vault's key: %w", err)
	}
	return nil
}

func (v *Vault) create(key Key) error {
	k, err := newKeys(key)
	if err != nil {
		return err
	}
	return v.rewrite(k)
}

func (v *Vault) load(content []byte, key Key) error {
	k, rest, err := openHeader(content, key)
	if err != nil {
		return err
	}
	v.keys = k
	if v.aead, err = chacha20poly1305.NewX(k.master); err != nil {
		return err
	}
	v.size = int64(len(content) - len(rest))
	for {
		changes, next, err := openFrame(v.aead, v.number, rest)
		if err == io.EOF {
			break
		}
		if errors.Is(err, errTorn) {
			v.recovered = true
			break
		}
		if err != nil {
			return err
		}
		v.size += int64(len(rest) - len(next))
		v.number++
		v.apply(changes)
		rest = next
	}
	if v.file, err = os.OpenFile(v.path, os.O_RDWR, 0o600); err != nil {
		return err
	}
	if v.recovered {
		if err := v.cutOff(rest); err != nil {
			return errors.Join(err, v.file.Close())
		}
	}
	return nil
}

// cutOff takes away what a crash left of a transaction, when it is safe in a file of its own.
func (v *Vault) cutOff(tail []byte) error {
	removeLeftovers(Torn(v.path))
	aside, replaced, err := replaceFile(Torn(v.path), tail)
	if replaced {
		err = errors.Join(err, aside.Close())
	}
	if err != nil {
		return fmt.Errorf("keeping aside what a crash cut off: %w", err)
	}
	return errors.Join(v.file.Truncate(v.size), v.file.Sync())
}

// write appends one frame. After a failure the file's end is unknown, so the vault closes itself.
func (v *Vault) write(changes map[string][]byte) error {
	frame, err := sealFrame(v.aead, v.number, changes)
	if err != nil {
		return err
	}
	_, err = v.file.WriteAt(frame, v.size)
	if err == nil {
		err = v.file.Sync()
	}
	if err != nil {
		err = errors.Join(err, v.file.Close())
		v.file = nil
		return err
	}
	v.size += int64(len(frame))
	v.number++
	v.apply(changes)
	return nil
}

func (v *Vault) apply(changes map[string][]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, value := range changes {
		if old, ok := v.records[key]; ok {
			v.live -= int64(len(key) + len(old))
			delete(v.records, key)
		}
		if value != nil {
			v.live += int64(len(key) + len(value))
			v.records[key] = value
		}
	}
}

// rewrite writes all records as one frame into a new file and puts it in the place of the old one.
func (v *Vault) rewrite(k keys) error {
	aead, err := chacha20poly1305.NewX(k.master)
	if err != nil {
		return err
	}
	content, err := sealHeader(k)
	if err != nil {
		return err
	}
	number := uint64(0)
	if len(v.records) > 0 {
		frame, err := sealFrame(aead, 0, v.records)
		if err != nil {
			return err
		}
		content, number = append(content, frame...), 1
	}
	file, replaced, err := replaceFile(v.path, content)
	if !replaced {
		return err
	}
	if v.file != nil {
		// The old file has no name any more; nothing that it says can matter.
		v.file.Close()
	}
	v.file, v.keys, v.aead, v.size, v.number = file, k, aead, int64(len(content)), number
	if err != nil {
		// Which of the two files a crash would leave is unknown: nothing may be built on either.
		err = errors.Join(err, v.file.Close())
		v.file = nil
	}
	return err
}

// replaceFile puts a new file in the place of an old one: at every moment there is one of the two. With
// replaced, an error says that it might not last.
func replaceFile(path string, content []byte) (f *os.File, replaced bool, err error) {
	dir := filepath.Dir(path)
	// CreateTemp makes files of mode 0600.
	if f, err = os.CreateTemp(dir, filepath.Base(path)+leftover); err != nil {
		return nil, false, err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, true, syncDir(dir)
}

const leftover = ".new-*"

// removeLeftovers removes new files that a crash kept from taking their place. The caller has the lock.
func removeLeftovers(path string) {
	names, err := filepath.Glob(path + leftover)
	if err != nil {
		return // a path that is no pattern: its leftovers cost a little space
	}
	for _, name := range names {
		os.Remove(name)
	}
}
