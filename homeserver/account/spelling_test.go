package account_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"golang.org/x/crypto/argon2"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// The same password may come in another form from another keyboard, and hashes of any form are from before one was chosen.
func TestPasswordsInAnyForm(t *testing.T) {
	const composed, decomposed, mixed = "pass caf\u00e9 \u00fc", "pass cafe\u0301 u\u0308", "pass cafe\u0301 \u00fc"
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := newService(db, nil), t.Context()
		l, err := s.Register(ctx, account.Account{Username: "alice", Password: decomposed}, dummy)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{composed, decomposed, mixed} {
			if err := s.CheckPassword(ctx, l.User, form); err != nil {
				t.Errorf("%+q: %v", form, err)
			}
		}
		hash := func() (hash string) {
			err := db.View(ctx, func(tx *store.Tx) error {
				u, _, err := tx.Users.Get(l.User)
				hash = u.PasswordHash
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return hash
		}
		// Each spelling of a stored one that can be guessed, given what is typed: all but the mixed one, which has to be typed so.
		for _, c := range []struct{ stored, typed string }{
			{decomposed, composed}, {decomposed, decomposed}, {decomposed, mixed}, {mixed, mixed}, {composed, decomposed}, {composed, mixed},
		} {
			salt := []byte("sixteen bytes of")
			key := argon2.IDKey([]byte(c.stored), salt, 1, 64, 1, 32)
			old := fmt.Sprintf("$argon2id$v=%d$m=64,t=1,p=1$%s$%s", argon2.Version, base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
			err := db.Update(ctx, func(tx *store.Tx) error { return tx.Users.SetPassword(l.User, old) })
			if err != nil {
				t.Fatal(err)
			}
			wantErr(t, "another password", s.CheckPassword(ctx, l.User, "pass cafe u"), account.ErrBadLogin)
			if hash() != old {
				t.Error("a wrong password was hashed anew")
			}
			if _, err := s.LoginWithPassword(ctx, l.User, c.typed, account.DeviceRequest{}); err != nil {
				t.Errorf("%+q, stored as %+q: %v", c.typed, c.stored, err)
			}
			anew := hash()
			if (anew != old) != (c.stored != composed) {
				t.Errorf("%+q, stored as %+q, was hashed anew: %t", c.typed, c.stored, anew != old)
			}
			for _, form := range []string{composed, decomposed, mixed} {
				if err := s.CheckPassword(ctx, l.User, form); err != nil {
					t.Errorf("%+q after %+q: %v", form, c.typed, err)
				}
			}
			if hash() != anew {
				t.Errorf("%+q was hashed anew again", c.stored)
			}
		}
	})
}
