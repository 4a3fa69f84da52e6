package migrations

import (
	"context"

	"github.com/uptrace/bun"
)

// ApplyUpTo brings a new database to an earlier step.
func ApplyUpTo(ctx context.Context, db *bun.DB, number int) error {
	steps, err := load()
	if err != nil {
		return err
	}
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := applied(ctx, tx); err != nil {
			return err
		}
		for _, s := range steps[:number] {
			if err := s.apply(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
}
