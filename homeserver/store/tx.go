package store

import (
	"context"
	"database/sql"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Tx is an open transaction: a snapshot in View, a writing one in Update. It holds one field for each
// aggregate and must not be kept or used by two goroutines.
type Tx struct {
	ctx      context.Context
	db       *DB
	conn     *conn
	writable bool
	last     stream.Position // the newest position that is taken
	changes  []stream.Change // those that have been logged
	failed   error           // of what Log wrote
	after    []func()
	carried  carried

	Rooms        Rooms
	Events       Events
	States       States
	Memberships  Memberships
	Requests     Requests
	Outbox       Outbox
	Relations    Relations
	Receipts     Receipts
	Aliases      Aliases
	Users        Users
	Devices      Devices
	Tokens       Tokens
	Passes       Passes
	Profiles     Profiles
	Errands      Errands
	Invites      Invites
	AccountData  AccountData
	Stored       Stored
	Filters      Filters
	ServerKeys   ServerKeys
	Destinations Destinations
	Received     Received
	Held         Held
	Media        Media
	Pushers      Pushers
	DeviceKeys   DeviceKeys
	OneTimeKeys  OneTimeKeys
	CrossSigning CrossSigning
	DeviceLists  DeviceLists
	ToDevice     ToDevice
	KeyBackups   KeyBackups
	Reports      Reports
	Leases       Leases
}

func newTx(ctx context.Context, db *DB, c *conn, writable bool) *Tx {
	tx := &Tx{ctx: ctx, db: db, conn: c, writable: writable}
	tx.Rooms = Rooms{tx}
	tx.Events = Events{tx}
	tx.States = States{tx}
	tx.Memberships = Memberships{tx}
	tx.Requests = Requests{tx}
	tx.Outbox = Outbox{tx}
	tx.Relations = Relations{tx}
	tx.Receipts = Receipts{tx}
	tx.Aliases = Aliases{tx}
	tx.Users = Users{tx}
	tx.Devices = Devices{tx}
	tx.Tokens = Tokens{tx}
	tx.Passes = Passes{tx}
	tx.Profiles = Profiles{tx}
	tx.Errands = Errands{tx}
	tx.Invites = Invites{tx}
	tx.AccountData = AccountData{tx}
	tx.Stored = Stored{tx}
	tx.Filters = Filters{tx}
	tx.ServerKeys = ServerKeys{tx}
	tx.Destinations = Destinations{tx}
	tx.Received = Received{tx}
	tx.Held = Held{tx}
	tx.Media = Media{tx}
	tx.Pushers = Pushers{tx}
	tx.DeviceKeys = DeviceKeys{tx}
	tx.OneTimeKeys = OneTimeKeys{tx}
	tx.CrossSigning = CrossSigning{tx}
	tx.DeviceLists = DeviceLists{tx}
	tx.ToDevice = ToDevice{tx}
	tx.KeyBackups = KeyBackups{tx}
	tx.Reports = Reports{tx}
	tx.Leases = Leases{tx}
	return tx
}

// Log gives a change its position and writes it at once, so that what follows, in this update and in the next, can read
// it. An error of write fails the update. Write must do nothing but write: the position is not final before the commit.
func (tx *Tx) Log(change stream.Change, write func(stream.Position) error) {
	if tx.failed != nil {
		return
	}
	tx.last++
	change.Position = tx.last
	tx.changes = append(tx.changes, change)
	tx.failed = write(tx.last)
}

// AfterCommit calls f in the writer once the transaction is durable and before anyone is told: for
// caches only. f must be quick.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

// Position is the newest position that this transaction sees.
func (tx *Tx) Position() (stream.Position, error) {
	var p int64
	_, err := tx.row([]any{&p}, `SELECT value FROM counters WHERE name = 'log'`)
	return stream.Position(p), err
}

// Fact reads a fact about the database, empty if it is not there.
func (tx *Tx) Fact(name string) (string, error) {
	var value string
	_, err := tx.row([]any{&value}, `SELECT value FROM facts WHERE name = ?`, name)
	return value, err
}

// SetFact writes a fact about the database.
func (tx *Tx) SetFact(name, value string) error {
	_, err := tx.exec(`INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

// FactOnce writes a fact unless there is one of that name, and returns the one that holds.
func (tx *Tx) FactOnce(name, value string) (string, error) {
	if _, err := tx.exec(`INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, value); err != nil {
		return "", err
	}
	return tx.Fact(name)
}

func (tx *Tx) exec(text string, args ...any) (int64, error) {
	if tx.conn == nil {
		if err := tx.open(); err != nil {
			return 0, err
		}
	}
	return tx.conn.exec(text, args...)
}

func (tx *Tx) query(scan func(*sql.Rows) error, text string, args ...any) error {
	if err := tx.ctx.Err(); err != nil {
		return err
	}
	if tx.conn == nil {
		if err := tx.open(); err != nil {
			return err
		}
	}
	return tx.conn.query(scan, text, args...)
}

func (tx *Tx) row(dest []any, text string, args ...any) (bool, error) {
	if err := tx.ctx.Err(); err != nil {
		return false, err
	}
	if tx.conn == nil {
		if err := tx.open(); err != nil {
			return false, err
		}
	}
	return tx.conn.row(dest, text, args...)
}

// carried is what a reader is handed of what is queued to be written.
type carried struct {
	events map[EventNID]*Event
	ids    map[id.EventID]*Event
	states map[StateNID]StateMap
}

// Carry lets a reader find an event, and states, that are queued to be written, as if they were written already. The
// event has no position yet.
func (tx *Tx) Carry(e *Event, states ...Snapshot) {
	c := &tx.carried
	if c.events == nil {
		c.events, c.ids, c.states = map[EventNID]*Event{}, map[id.EventID]*Event{}, map[StateNID]StateMap{}
	}
	if e != nil {
		// A copy, since the writer sets the position in the event itself.
		e = &Event{
			Event: e.Event, NID: e.NID, Room: e.Room, StateBefore: e.StateBefore, Rejected: e.Rejected, SoftFailed: e.SoftFailed,
			RedactedBy: e.RedactedBy, Withheld: e.Withheld,
		}
		c.events[e.NID], c.ids[e.ID] = e, e
	}
	for _, s := range states {
		c.states[s.NID] = s.Map
	}
}
