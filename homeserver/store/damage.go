package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Damage ends when the file is mended under the running server: a disk reads again what it could not, an index is made anew.
// Other statements say nothing of that, so those that met the damage are tried again, and undone.

// maxMet is how many statements that met damage are remembered, each text once.
const maxMet = 16

// damage is an ErrDamaged, and the statement that met it.
type damage struct {
	text string
	args []any
	err  error
}

func (d *damage) Error() string   { return fmt.Sprintf("%s: %v: %v", brief(d.text), ErrDamaged, d.err) }
func (d *damage) Unwrap() []error { return []error{ErrDamaged, d.err} }

// repeatable says whether a statement can be tried by itself, and undone.
func (d *damage) repeatable() bool {
	return slices.ContainsFunc([]string{"SELECT", "INSERT", "UPDATE", "DELETE"}, func(verb string) bool { return strings.HasPrefix(d.text, verb) })
}

// meet adds what an error tells of damage to the statements that met it.
func (f *openFault) meet(err error) {
	var d *damage
	if !errors.As(err, &d) || !d.repeatable() || len(f.met) >= maxMet ||
		slices.ContainsFunc(f.met, func(known *damage) bool { return known.text == d.text }) {
		return
	}
	f.met = append(f.met, d)
}

// errUndo has an update leave nothing behind.
var errUndo = errors.New("this was a trial")

// CheckDamage finds out whether damage has ended, if there is any: it has once all statements that met it can be carried out.
// If none of them can be tried it lasts as long as the process.
func (db *DB) CheckDamage(ctx context.Context) {
	if !db.Damaged() {
		return
	}
	db.faults.mu.Lock()
	var met []*damage
	if known := db.faults.open[faultDamage]; known != nil {
		met = slices.Clone(known.met)
	}
	db.faults.mu.Unlock()
	for _, d := range met {
		err := db.Update(ctx, func(tx *Tx) error {
			if err := forgetPages(tx.conn); err != nil {
				return err
			}
			if err := tx.query(func(*sql.Rows) error { return nil }, d.text, d.args...); errors.Is(err, ErrUnavailable) {
				return err
			}
			return errUndo // another error is not one of the file
		})
		if !errors.Is(err, errUndo) {
			return
		}
	}
	if len(met) > 0 {
		db.Note(faultDamage, nil)
	}
}
