package store

import (
	"database/sql"
	"errors"
)

// WaitingReaders is how many wait for a connection to read.
func (db *DB) WaitingReaders() (n int) {
	db.readers.mu.Lock()
	defer db.readers.mu.Unlock()
	for _, queue := range db.readers.waiting {
		n += len(queue)
	}
	return n
}

// Plan is how the database goes about a query, a line a step.
type Plan struct {
	Query string
	Steps []string
}

// Explain reads and returns the plan of each query. PostgreSQL carries it out once more for that and tells how many rows
// each step read.
func (tx *Tx) Explain(read func() error) (plans []Plan, err error) {
	if _, err := tx.Position(); err != nil { // opens the connection
		return nil, err
	}
	type query struct {
		text string
		args []any
	}
	var queries []query
	tx.conn.seen = func(text string, args []any) { queries = append(queries, query{text, args}) }
	err = read()
	tx.conn.seen = nil
	explain := `EXPLAIN QUERY PLAN `
	if tx.db.postgres {
		explain = `EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) `
	}
	for _, q := range queries {
		var plan []string
		e := tx.query(func(rows *sql.Rows) error {
			var line string
			into := []any{new(any), new(any), new(any), &line}
			if tx.db.postgres {
				into = into[3:]
			}
			err := rows.Scan(into...)
			plan = append(plan, line)
			return err
		}, explain+q.text, q.args...)
		plans, err = append(plans, Plan{q.text, plan}), errors.Join(err, e)
	}
	return plans, err
}
