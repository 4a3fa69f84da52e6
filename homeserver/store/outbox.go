package store

import (
	"database/sql"
	"math/bits"
	"strings"

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

// AddEvent queues an event for servers; call it from the write function of Tx.Log.
func (s Outbox) AddEvent(servers []id.ServerName, p stream.Position, event EventNID) error {
	return s.add(servers, p, event, nil)
}

// DataUnit is the JSON of an ephemeral data unit for a server.
type DataUnit struct {
	Server id.ServerName
	JSON   []byte
}

// AddEDUs queues an ephemeral data unit of its own for each of some servers, which are different.
func (s Outbox) AddEDUs(units []DataUnit) {
	if len(units) == 0 {
		return
	}
	servers := make([]id.ServerName, len(units))
	for i, u := range units {
		servers[i] = u.Server
	}
	s.tx.Log(stream.Change{Kind: stream.Outbound, Servers: servers}, func(p stream.Position) error {
		return s.add(servers, p, 0, func(i int) any { return units[i].JSON })
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

// add queues an event for servers, whose edu is nil, or the data unit that is for each.
func (s Outbox) add(servers []id.ServerName, p stream.Position, event EventNID, edu func(i int) any) error {
	for left := servers; len(left) > 0; {
		size := min(maxDestinations, 1<<(bits.Len(uint(len(left)))-1))
		chunk := left[:size]
		left = left[size:]
		args := make([]any, 0, 4*len(chunk))
		for i, server := range chunk {
			var unit any
			if edu != nil {
				unit = edu(len(servers) - len(left) - len(chunk) + i)
			}
			args = append(args, string(server), int64(p), int64(event), unit)
		}
		_, err := s.tx.exec(`INSERT INTO outbox (destination, position, event_nid, edu) VALUES (?, ?, ?, ?)`+
			strings.Repeat(`, (?, ?, ?, ?)`, len(chunk)-1)+` ON CONFLICT DO NOTHING`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// AddEDU queues an ephemeral data unit for servers.
func (s Outbox) AddEDU(servers []id.ServerName, edu []byte) {
	if len(servers) == 0 {
		return
	}
	s.tx.Log(stream.Change{Kind: stream.Outbound, Servers: servers}, func(p stream.Position) error {
		return s.add(servers, p, 0, func(int) any { return edu })
	})
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
