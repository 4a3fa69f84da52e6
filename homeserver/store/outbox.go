package store

import (
	"database/sql"
	"math/bits"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// OutboxRow is one thing to be delivered to another server.
type OutboxRow struct {
	Position stream.Position
	Event    EventNID // 0: an ephemeral data unit
	EDU      []byte   // its JSON, with edu_type and content
}

// Outbox is what has to be delivered to other servers.
type Outbox struct{ tx *Tx }

// maxDestinations is how many servers one statement queues something for at most. Fewer are a power of two, too:
// each number is a statement of its own that stays prepared.
const maxDestinations = 256

// rowOverhead is about how many bytes a row of a data unit has beside those of the unit.
const rowOverhead = 512

// AddEvent queues an event for servers; call it from the write function of Tx.Log.
func (s Outbox) AddEvent(servers []id.ServerName, p stream.Position, event EventNID) error {
	return s.add(servers, p, event, nil)
}

// DataUnit is an ephemeral data unit.
type DataUnit struct {
	JSON []byte // with edu_type and content
	// Sender is the local user whose share of what may wait it takes up; empty if its number is bounded otherwise.
	Sender id.UserID
	// Subject is what it tells of, empty if nobody asks. See About and AddNewest.
	Subject string
}

// AddEDU queues an ephemeral data unit for servers.
func (s Outbox) AddEDU(servers []id.ServerName, unit DataUnit) {
	s.addEDUs(servers, func(int) DataUnit { return unit })
}

// AddEDUs queues an ephemeral data unit of its own for each of some servers, which are different.
func (s Outbox) AddEDUs(servers []id.ServerName, units []DataUnit) {
	s.addEDUs(servers, func(i int) DataUnit { return units[i] })
}

// AddNewest is AddEDU for a unit that makes those needless that wait for the same servers with the same subject.
func (s Outbox) AddNewest(servers []id.ServerName, unit DataUnit) error {
	waiting, err := s.About(unit.Subject)
	if err != nil {
		return err
	}
	former := slices.DeleteFunc(slices.Clone(servers), func(n id.ServerName) bool { return waiting[n].Count == 0 })
	for chunk := range slices.Chunk(former, 500) {
		if _, err := s.tx.exec(`DELETE FROM outbox WHERE subject <> '' AND subject = ? AND destination IN (?)`, unit.Subject, bun.In(chunk)); err != nil {
			return err
		}
	}
	s.AddEDU(servers, unit)
	return nil
}

func (s Outbox) addEDUs(servers []id.ServerName, unit func(i int) DataUnit) {
	if len(servers) == 0 {
		return
	}
	s.tx.Log(stream.Change{Kind: stream.Outbound, Servers: servers}, func(p stream.Position) error { return s.add(servers, p, 0, unit) })
	s.tx.AfterCommit(func() {
		size := len(servers) * rowOverhead
		for i := range servers {
			size += len(unit(i).JSON)
		}
		s.tx.db.queued.Add(int64(size))
	})
}

// AddWithheld queues an event for servers that has no place in the log.
func (s Outbox) AddWithheld(servers []id.ServerName, event EventNID) {
	if len(servers) == 0 {
		return
	}
	s.tx.Log(stream.Change{Kind: stream.Outbound, Servers: servers}, func(p stream.Position) error {
		return s.add(servers, p, event, nil)
	})
}

// add queues an event for servers, whose unit is nil, or the data unit that is for each.
func (s Outbox) add(servers []id.ServerName, p stream.Position, event EventNID, unit func(i int) DataUnit) error {
	text, row, columns := `INSERT INTO outbox (destination, position, event_nid) VALUES `, `(?, ?, ?)`, 3
	if unit != nil {
		text, row, columns = `INSERT INTO outbox (destination, position, event_nid, edu, sender, bytes, subject) VALUES `, `(?, ?, ?, ?, ?, ?, ?)`, 7
	}
	for left := servers; len(left) > 0; {
		size := min(maxDestinations, 1<<(bits.Len(uint(len(left)))-1))
		chunk := left[:size]
		left = left[size:]
		args := make([]any, 0, columns*len(chunk))
		for i, server := range chunk {
			args = append(args, string(server), int64(p), int64(event))
			if unit != nil {
				u := unit(len(servers) - len(left) - len(chunk) + i)
				args = append(args, u.JSON, string(u.Sender), len(u.JSON), u.Subject)
			}
		}
		if _, err := s.tx.exec(text+row+strings.Repeat(`, `+row, len(chunk)-1)+` ON CONFLICT DO NOTHING`, args...); err != nil {
			return err
		}
	}
	return nil
}

// Next reads the first rows for a destination behind a position, up to the data unit by which size is reached, in bytes. More
// says that there are further ones, or may be.
func (s Outbox) Next(server id.ServerName, after stream.Position, limit, size int) (out []OutboxRow, more bool, err error) {
	read, last := 0, after
	err = s.tx.query(func(rows *sql.Rows) error {
		var p stream.Position
		var bytes int
		err := rows.Scan(&p, &bytes)
		if read++; size > 0 {
			last = p
		} else {
			more = true
		}
		size -= bytes
		return err
	}, `SELECT position, coalesce(octet_length(edu), 0) FROM outbox WHERE destination = ? AND position > ? ORDER BY position LIMIT ?`, string(server), int64(after), limit)
	if err != nil || last == after {
		return nil, false, err
	}
	err = s.tx.query(func(rows *sql.Rows) error {
		var r OutboxRow
		if err := rows.Scan(&r.Position, &r.Event, &r.EDU); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	}, `SELECT position, event_nid, edu FROM outbox WHERE destination = ? AND position > ? AND position <= ? ORDER BY position`, string(server), int64(after), int64(last))
	return out, more || read == limit, err
}

// Delete removes what was delivered: everything for a destination up to a position.
func (s Outbox) Delete(server id.ServerName, upto stream.Position) error {
	_, err := s.tx.exec(`DELETE FROM outbox WHERE destination = ? AND position <= ?`, string(server), int64(upto))
	return err
}

// Destinations lists the servers that something waits for.
func (s Outbox) Destinations() ([]id.ServerName, error) {
	return s.destinations(`SELECT DISTINCT destination FROM outbox ORDER BY destination`)
}

// EventDestinations lists the servers that an event waits for.
func (s Outbox) EventDestinations() ([]id.ServerName, error) {
	return s.destinations(`SELECT DISTINCT destination FROM outbox WHERE event_nid <> 0 ORDER BY destination`)
}

func (s Outbox) destinations(text string) ([]id.ServerName, error) {
	var out []id.ServerName
	err := s.tx.query(func(rows *sql.Rows) error {
		var d id.ServerName
		if err := rows.Scan(&d); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, text)
	return out, err
}

// OutboxSize is how much waits.
type OutboxSize struct{ Count, Bytes int }

// About is how much waits for which servers of what has a subject.
func (s Outbox) About(subject string) (map[id.ServerName]OutboxSize, error) {
	return sizes[id.ServerName](s.tx, `SELECT destination, COUNT(*), SUM(bytes) FROM outbox WHERE subject <> '' AND subject = ? GROUP BY destination`, subject)
}

// BySender is how much waits of each local user. It looks at all units: use it in a View, as the following.
func (s Outbox) BySender() (map[id.UserID]OutboxSize, error) {
	return sizes[id.UserID](s.tx, `SELECT sender, COUNT(*), SUM(bytes) FROM outbox WHERE sender <> '' GROUP BY sender`)
}

// ByDestination is how much waits for each server of what local users have a share of.
func (s Outbox) ByDestination() (map[id.ServerName]OutboxSize, error) {
	return sizes[id.ServerName](s.tx, `SELECT destination, COUNT(*), SUM(bytes) FROM outbox WHERE sender <> '' GROUP BY destination`)
}

func sizes[K ~string](tx *Tx, text string, args ...any) (map[K]OutboxSize, error) {
	out := map[K]OutboxSize{}
	err := tx.query(func(rows *sql.Rows) error {
		var key K
		var size OutboxSize
		if err := rows.Scan(&key, &size.Count, &size.Bytes); err != nil {
			return err
		}
		out[key] = size
		return nil
	}, text, args...)
	return out, err
}

// OutboxUnit is a data unit in the outbox, without what it says.
type OutboxUnit struct {
	Sender      id.UserID
	Destination id.ServerName
	Position    stream.Position
	Size        int
}

// OfSender lists the data units that wait of a local user, the newest first.
func (s Outbox) OfSender(user id.UserID) ([]OutboxUnit, error) {
	return s.units(`SELECT sender, destination, position, bytes FROM outbox WHERE sender <> '' AND sender = ? ORDER BY position DESC`, string(user))
}

// ForDestination lists the data units that wait for a server and that local users have a share of, the newest first.
func (s Outbox) ForDestination(server id.ServerName) ([]OutboxUnit, error) {
	return s.units(`SELECT sender, destination, position, bytes FROM outbox WHERE sender <> '' AND destination = ? ORDER BY position DESC`, string(server))
}

func (s Outbox) units(text string, args ...any) (out []OutboxUnit, err error) {
	err = s.tx.query(func(rows *sql.Rows) error {
		var u OutboxUnit
		if err := rows.Scan(&u.Sender, &u.Destination, &u.Position, &u.Size); err != nil {
			return err
		}
		out = append(out, u)
		return nil
	}, text, args...)
	return out, err
}

// DeleteSome removes data units for a server.
func (s Outbox) DeleteSome(server id.ServerName, positions []stream.Position) error {
	_, err := s.tx.exec(`DELETE FROM outbox WHERE destination = ? AND position IN (?)`, string(server), bun.In(positions))
	return err
}
