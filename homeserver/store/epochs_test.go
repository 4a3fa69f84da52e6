package store_test

import (
	"context"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// log writes something that takes a position.
func log(t *testing.T, db *store.DB) {
	t.Helper()
	update(t, db, func(tx *store.Tx) error {
		tx.AccountData.Set("@a:h", "", "m.test", []byte(`{}`))
		return nil
	})
}

func update(t *testing.T, db *store.DB, f func(*store.Tx) error) {
	t.Helper()
	if err := db.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func life(t *testing.T, db *store.DB, token string) (at stream.Position, of stream.Life) {
	t.Helper()
	err := db.View(context.Background(), func(tx *store.Tx) error {
		read, l, err := tx.ReadToken(token)
		at, of = read.Position, l
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at, of
}

// TestNumbersOfALostLife has a database restored, and the lives before and after count on.
func TestNumbersOfALostLife(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		const user = id.UserID("@a:h")
		use := func(address string) (token string, number int64) {
			db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			log(t, db)
			update(t, db, func(tx *store.Tx) error {
				var before int64
				before, number, err = tx.DeviceLists.NextStreamID(user)
				if err == nil && before >= number {
					t.Errorf("number %d after %d", number, before)
				}
				return err
			})
			return db.Hub.Token(db.Hub.Current()).String(), number
		}
		early, _ := use(address)
		restored := storetest.Copy(t, address)
		lost, number := use(address)
		fresh, again := use(restored)
		if fresh == lost || again == number {
			t.Errorf("token %s and number %d of a life that was lost came again: %s, %d", lost, number, fresh, again)
		}
		db := storetest.Open(t, restored)
		for token, want := range map[string]stream.Life{early: stream.Ours, fresh: stream.Ours, lost: stream.Unknown} {
			if _, of := life(t, db, token); of != want {
				t.Errorf("token %s is of life %d, not %d", token, of, want)
			}
		}
	})
}

// TestEpochsOfTwoProcesses has the tokens of each process taken by the other, whichever started first and wrote last.
func TestEpochsOfTwoProcesses(t *testing.T) {
	one := storetest.Postgres(t)
	a := storetest.Open(t, one)
	log(t, a)
	tokens := []string{a.Hub.Token(a.Hub.Current()).String()}
	b := storetest.Open(t, one)
	for range 3 {
		for _, db := range []*store.DB{b, a} {
			log(t, db)
			tokens = append(tokens, db.Hub.Token(db.Hub.Current()).String())
		}
	}
	c := storetest.Open(t, one)
	log(t, c)
	tokens = append(tokens, c.Hub.Token(c.Hub.Current()).String())
	for _, db := range []*store.DB{a, b, c} {
		for _, token := range tokens {
			if at, of := life(t, db, token); of != stream.Ours {
				t.Errorf("token %s is %d of life %d", token, at, of)
			}
		}
	}
}
