-- Work that one process at a time does, such as collecting what is unused. One row a kind of work.
CREATE TABLE leases (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  BIGINT NOT NULL -- milliseconds since 1970
);

-- States of which no event, head or child may be left: the head moved on without an event that points to them, or
-- their last child was deleted. A row goes once its state is found in use, or is deleted.
CREATE TABLE unused_states (
    nid       BIGINT PRIMARY KEY,
    marked_at BIGINT NOT NULL DEFAULT 0 -- when it was found unused, in milliseconds since 1970; 0: not looked at yet
);
CREATE INDEX unused_states_marked ON unused_states (marked_at);

-- What refers to a state. Outliers have none, and most states that are written out whole have no parent.
CREATE INDEX events_state ON events (state_before) WHERE state_before <> 0;
CREATE INDEX state_snapshots_parent ON state_snapshots (parent) WHERE parent <> 0;

INSERT INTO unused_states (nid) SELECT s.nid FROM state_snapshots s
    WHERE NOT EXISTS (SELECT 1 FROM room_heads h WHERE h.room_nid = s.room_nid AND h.state = s.nid)
    AND NOT EXISTS (SELECT 1 FROM events e WHERE e.state_before = s.nid AND e.state_before <> 0)
    AND NOT EXISTS (SELECT 1 FROM state_snapshots c WHERE c.parent = s.nid AND c.parent <> 0);

-- Rooms that perhaps no user of this server is in or remembers. A row goes once somebody is found who does, or all that
-- is known of the room is deleted. The room's row in rooms stays, emptied: processes remember the number of a room ID.
CREATE TABLE unwanted_rooms (
    room_nid  BIGINT PRIMARY KEY,
    marked_at BIGINT NOT NULL DEFAULT 0, -- when it was found unwanted, in milliseconds since 1970; 0: not looked at yet
    purging   BOOLEAN NOT NULL DEFAULT FALSE -- its rows are being deleted: nobody may come in until that is done
);
CREATE INDEX memberships_kept ON memberships (room_nid) WHERE local AND NOT forgotten;

INSERT INTO unwanted_rooms (room_nid) SELECT r.nid FROM rooms r
    WHERE NOT EXISTS (SELECT 1 FROM memberships m WHERE m.room_nid = r.nid AND m.local AND NOT m.forgotten);

-- What a purge finds the rows of a room by.
CREATE INDEX events_aside ON events (room_nid) WHERE position IS NULL;
CREATE INDEX pending_redactions_room ON pending_redactions (room_nid);
CREATE INDEX membership_log_room ON membership_log (room_nid);

-- How many rooms have been purged: where it has grown, what other processes remember of events may be gone.
INSERT INTO counters (name, value) VALUES ('purges', 0);
