package keys_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
)

func (f *fixture) newBackup() string {
	f.Helper()
	version, err := f.CreateBackup(f.Context(), alice, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{"public_key":"x"}`))
	f.must(err)
	return version
}

func backupKey(session string, index, forwarded int64, verified bool) store.BackupKey {
	return store.BackupKey{
		Room: "!r:here", Session: session, FirstMessageIndex: index, ForwardedCount: forwarded, IsVerified: verified,
		SessionData: json.RawMessage(`{"a":"b"}`),
	}
}

// backupKeys reads keys of alice's.
func (f *fixture) backupKeys(sel keys.BackupSelection) (out []store.BackupKey, err error) {
	err = f.BackupKeys(f.Context(), alice, sel, func(some []store.BackupKey) error {
		if len(some) > 200 {
			f.Errorf("%d keys at once", len(some))
		}
		out = append(out, some...)
		return nil
	})
	return out, err
}

// stored is how many bytes of backups are counted for alice.
func (f *fixture) stored() (n int64) {
	f.update(func(tx *store.Tx) (err error) {
		n, err = tx.Stored.Bytes(alice, store.StoredKeyBackup)
		return err
	})
	return n
}

// Backups are large: they are written, read and deleted some keys at a time, and bounded in bytes.
func TestBackupsAreBoundedInBytes(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		version := f.newBackup()
		const n = 450
		var all []store.BackupKey
		for i := range n {
			k := backupKey(fmt.Sprintf("s%03d", i), 1, 1, false)
			k.Room = id.RoomID(fmt.Sprintf("!%d:here", i/100))
			all = append(all, k)
		}
		size := int64(len(all[0].SessionData))
		state, err := f.PutBackupKeys(ctx, alice, version, all)
		f.must(err)
		got, err := f.backupKeys(keys.BackupSelection{Version: version})
		f.must(err)
		if state.Count != n || len(got) != n || got[n-1].Session != all[n-1].Session || f.stored() != n*size {
			f.Fatalf("%d keys are counted, %d read, %d bytes", state.Count, len(got), f.stored())
		}
		better := all[0]
		better.IsVerified, better.SessionData = true, json.RawMessage(`{"a":"longer"}`)
		_, err = f.PutBackupKeys(ctx, alice, version, []store.BackupKey{better, all[1]})
		f.must(err)
		if f.stored() != (n-1)*size+int64(len(better.SessionData)) {
			f.Errorf("%d bytes after a larger key", f.stored())
		}
		state, err = f.DeleteBackupKeys(ctx, alice, keys.BackupSelection{Version: version, Room: "!0:here"})
		f.must(err)
		if state.Count != n-100 || f.stored() != (n-100)*size {
			f.Errorf("%d keys and %d bytes after a room was deleted", state.Count, f.stored())
		}
		b, err := strconv.ParseInt(version, 10, 64)
		f.must(err)
		full := 256<<20 - int(f.stored())
		f.update(func(tx *store.Tx) error { return tx.KeyBackups.SetKeys(alice, b, nil, full) })
		_, err = f.PutBackupKeys(ctx, alice, version, all[:1])
		f.wants(err, keys.ErrTooLarge)
		f.update(func(tx *store.Tx) error { return tx.KeyBackups.SetKeys(alice, b, nil, -full) })

		// What an interrupted deletion leaves goes with the next prune.
		f.update(func(tx *store.Tx) error { return tx.KeyBackups.Delete(alice, b) })
		f.must(f.Prune(ctx))
		if f.stored() != 0 {
			f.Errorf("%d bytes are left of a deleted backup", f.stored())
		}
		version = f.newBackup()
		_, err = f.PutBackupKeys(ctx, alice, version, all)
		f.must(err)
		f.must(f.DeleteBackup(ctx, alice, version))
		if f.stored() != 0 {
			f.Errorf("%d bytes are left of another one", f.stored())
		}
		for range 100 {
			f.newBackup()
		}
		_, err = f.CreateBackup(ctx, alice, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{}`))
		f.wants(err, keys.ErrTooLarge)
	})
}

// TestBetterKeysReplaceOthers follows Client-Server API, "Backup algorithm"; the cases include those of
// Complement's TestE2EKeyBackupReplaceRoomKeyRules.
func TestBetterKeysReplaceOthers(t *testing.T) {
	each(t, func(f *fixture) {
		version := f.newBackup()
		for i, c := range []struct {
			old, given store.BackupKey
			replaced   bool
		}{
			{backupKey("a", 10, 5, false), backupKey("a", 11, 5, false), false},
			{backupKey("b", 10, 5, false), backupKey("b", 10, 6, false), false},
			{backupKey("c", 10, 5, false), backupKey("c", 9, 6, false), true},
			{backupKey("d", 10, 5, false), backupKey("d", 10, 4, false), true},
			{backupKey("e", 10, 5, false), backupKey("e", 11, 6, true), true},
			{backupKey("f", 10, 5, true), backupKey("f", 9, 4, false), false},
			{backupKey("g", 10, 5, true), backupKey("g", 10, 5, true), false},
		} {
			first, err := f.PutBackupKeys(f.Context(), alice, version, []store.BackupKey{c.old})
			f.must(err)
			second, err := f.PutBackupKeys(f.Context(), alice, version, []store.BackupKey{c.given})
			f.must(err)
			got, err := f.backupKeys(keys.BackupSelection{Version: version, Room: "!r:here", Session: c.old.Session})
			f.must(err)
			want := c.old
			if c.replaced {
				want = c.given
			}
			if got[0].FirstMessageIndex != want.FirstMessageIndex || got[0].ForwardedCount != want.ForwardedCount || got[0].IsVerified != want.IsVerified {
				f.Errorf("case %d: kept %+v, want %+v", i, got[0], want)
			}
			if (first.ETag != second.ETag) != c.replaced || second.Count != int64(i+1) {
				f.Errorf("case %d: %+v became %+v", i, first, second)
			}
		}
	})
}

func TestBackupVersions(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		_, err := f.GetBackup(ctx, alice, "")
		f.wants(err, keys.ErrNotFound)
		one := f.newBackup()
		_, err = f.PutBackupKeys(ctx, alice, one, []store.BackupKey{backupKey("s", 1, 1, true)})
		f.must(err)
		two := f.newBackup()
		b, err := f.GetBackup(ctx, alice, "")
		f.must(err)
		if b.Version != two || b.Count != 0 || string(b.AuthData) != `{"public_key":"x"}` {
			f.Errorf("the current backup is %+v", b)
		}
		if b, err = f.GetBackup(ctx, alice, one); err != nil || b.Count != 1 {
			f.Errorf("the old backup is %+v, %v", b, err)
		}
		_, err = f.PutBackupKeys(ctx, alice, one, nil)
		var wrong *keys.WrongVersionError
		if !errors.As(err, &wrong) || wrong.Current != two {
			f.Errorf("storing in an old version gave %v", err)
		}
		f.wants(f.UpdateBackup(ctx, alice, keys.Backup{Version: two, Algorithm: "other", AuthData: json.RawMessage(`{}`)}), keys.ErrInvalid)
		f.must(f.UpdateBackup(ctx, alice, keys.Backup{Version: two, Algorithm: b.Algorithm, AuthData: json.RawMessage(`{"n":1}`)}))
		f.must(f.DeleteBackup(ctx, alice, two))
		f.must(f.DeleteBackup(ctx, alice, two))
		f.wants(f.DeleteBackup(ctx, alice, "99"), keys.ErrNotFound)
		f.wants(f.DeleteBackup(ctx, bob, one), keys.ErrNotFound)
		if b, err = f.GetBackup(ctx, alice, ""); err != nil || b.Version != one {
			f.Errorf("the current backup is %+v, %v", b, err)
		}
		if three := f.newBackup(); three == two {
			f.Error("a deleted version came again")
		}
	})
}

// TestLargeBackupKeysGoInSteps: so few are written, and read, at a time that others do not wait for many bytes.
func TestLargeBackupKeysGoInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		version := f.newBackup()
		const n = 100
		var all []store.BackupKey
		for i := range n {
			k := backupKey(fmt.Sprintf("s%03d", i), 1, 1, false)
			if i >= n/2 {
				k.SessionData = encode(map[string]string{"x": strings.Repeat("x", 60_000)})
			}
			all = append(all, k)
		}
		updates := f.updates(func() {
			state, err := f.PutBackupKeys(f.Context(), alice, version, all)
			f.must(err)
			if state.Count != n {
				f.Errorf("%d keys are counted", state.Count)
			}
		})
		if updates < 3 || updates > 6 {
			f.Errorf("3 MB were written in %d updates", updates)
		}
		read := 0
		f.must(f.BackupKeys(f.Context(), alice, keys.BackupSelection{Version: version}, func(some []store.BackupKey) error {
			size := 0
			for i, k := range some {
				size += len(k.SessionData)
				if want := all[read+i]; k.Session != want.Session || string(k.SessionData) != string(want.SessionData) {
					f.Errorf("key %d is %s", read+i, k.Session)
				}
			}
			if read += len(some); size > 1<<20 {
				f.Errorf("%d bytes at once", size)
			}
			return nil
		}))
		if read != n {
			f.Errorf("%d keys were read", read)
		}
	})
}

// TestErasedBackupsGoInSteps: the update that erases an account waits for no backup, whose keys are gone soon after.
func TestErasedBackupsGoInSteps(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		var versions []string
		for range 2 {
			versions = append(versions, f.newBackup())
			_, err := f.PutBackupKeys(ctx, alice, versions[len(versions)-1], []store.BackupKey{backupKey("s", 1, 1, true)})
			f.must(err)
		}
		before := f.stored()
		f.update(func(tx *store.Tx) error { return f.UserDeleted(tx, alice) })
		if after := f.stored(); after != before {
			f.Errorf("%d bytes of %d are left in the update", after, before)
		}
		for _, version := range versions {
			_, err := f.GetBackup(ctx, alice, version)
			f.wants(err, keys.ErrNotFound)
		}
		f.must(f.Prune(ctx))
		if after := f.stored(); after != 0 {
			f.Errorf("%d bytes are left", after)
		}
	})
}

func TestBackupKeysAreSelected(t *testing.T) {
	each(t, func(f *fixture) {
		ctx := f.Context()
		version := f.newBackup()
		other := backupKey("s1", 1, 1, true)
		other.Room = "!other:here"
		_, err := f.PutBackupKeys(ctx, alice, version, []store.BackupKey{backupKey("s1", 1, 1, true), backupKey("s2", 1, 1, true), other})
		f.must(err)
		sel := keys.BackupSelection{Version: version}
		for _, want := range []int{3, 2, 1} {
			got, err := f.backupKeys(sel)
			f.must(err)
			if len(got) != want {
				f.Errorf("%+v selects %v", sel, got)
			}
			if sel.Room != "" {
				sel.Session = "s2"
			}
			sel.Room = "!r:here"
		}
		state, err := f.DeleteBackupKeys(ctx, alice, sel)
		f.must(err)
		if state.Count != 2 {
			f.Errorf("left are %+v", state)
		}
		_, err = f.backupKeys(sel)
		f.wants(err, keys.ErrNotFound)
		_, err = f.PutBackupKeys(ctx, alice, version, []store.BackupKey{{Room: "!r:here", Session: "s"}})
		f.wants(err, keys.ErrMissing)
		f.update(func(tx *store.Tx) error { return f.UserDeleted(tx, alice) })
		_, err = f.GetBackup(ctx, alice, version)
		f.wants(err, keys.ErrNotFound)
	})
}
