package store

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// keptEpochs is how many of the newest epochs stay.
	keptEpochs = 4096
	// epochID is how many characters an epoch's ID has, of five random bits each.
	epochID = 10
)

// startEpoch begins an epoch of the log, on the writer's connection and before there is a writer. It takes a position: so
// other processes that write notice that there is a new one before they go on behind it.
func (db *DB) startEpoch() error {
	c := db.writer
	if _, err := c.exec(db.begin.write); err != nil {
		return err
	}
	list, err := db.insertEpoch(c)
	if err == nil {
		_, err = c.exec("COMMIT")
	}
	if err != nil {
		c.exec("ROLLBACK")
		return fmt.Errorf("begin an epoch of the log: %w", err)
	}
	db.epoch = list[len(list)-1]
	db.last = db.epoch.First
	db.Hub = stream.NewHub(db.last - 1)
	db.Hub.SetEpochs(list)
	db.Hub.Publish(db.last, nil)
	return nil
}

func (db *DB) insertEpoch(c *conn) ([]stream.Epoch, error) {
	e := stream.Epoch{ID: rand.Text()[:epochID]}
	if _, err := c.row([]any{&e.First}, `UPDATE counters SET value = value + 1 WHERE name = 'log' RETURNING value`); err != nil {
		return nil, err
	}
	if _, err := c.row([]any{&e.History}, `SELECT value FROM counters WHERE name = 'history'`); err != nil {
		return nil, err
	}
	if _, err := c.exec(`INSERT INTO epochs (first, id, history) VALUES (?, ?, ?)`, int64(e.First), e.ID, e.History); err != nil {
		return nil, err
	}
	if _, err := c.exec(`DELETE FROM epochs WHERE first <= (SELECT first FROM epochs ORDER BY first DESC LIMIT 1 OFFSET ?)`, keptEpochs); err != nil {
		return nil, err
	}
	return readEpochs(c, nil)
}

// readEpochs adds to some epochs those that began after them.
func readEpochs(c *conn, known []stream.Epoch) ([]stream.Epoch, error) {
	out := known[:len(known):len(known)]
	after := int64(-1)
	if len(known) > 0 {
		after = int64(known[len(known)-1].First)
	}
	err := c.query(func(rows *sql.Rows) error {
		var e stream.Epoch
		err := rows.Scan(&e.First, &e.ID, &e.History)
		out = append(out, e)
		return err
	}, `SELECT first, id, history FROM epochs WHERE first > ? ORDER BY first`, after)
	return out, err
}

// Epoch is the one that this process began with.
func (db *DB) Epoch() stream.Epoch { return db.epoch }

// ReadToken reads a token and says which life it is of, with the position that Hub.Judge gives.
func (tx *Tx) ReadToken(text string) (stream.Token, stream.Life, error) {
	t, err := stream.ParseToken(text)
	if err != nil {
		return t, stream.Unknown, err
	}
	hub := tx.db.Hub
	at, life := hub.Judge(t)
	if life == stream.Unknown {
		// Another process may have begun that epoch.
		if tx.conn == nil {
			if err := tx.open(); err != nil {
				return t, life, err
			}
		}
		list, err := readEpochs(tx.conn, hub.Epochs())
		if err != nil {
			return t, life, err
		}
		hub.SetEpochs(list)
		at, life = hub.Judge(t)
	}
	t.Position = at
	return t, life, nil
}

// Token is the token of a position.
func (tx *Tx) Token(p stream.Position) string { return tx.db.Hub.Token(p).String() }

// beyond counts on, for numbers that others remember: also what was counted after a backup does not come again once that
// is restored, since the number is at least the time in milliseconds since 1970.
func beyond(number int64) int64 { return max(number+1, time.Now().UnixMilli()) }
