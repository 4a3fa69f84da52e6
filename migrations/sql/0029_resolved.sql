-- The states of rooms at positions of the log where an event was appended and the room's state was then another than the one
-- behind that event, because other ends of the room had a say in it. Where no row is, it is the one behind the last event. Kept as
-- long as the events, of which each has one row at most: clients may ask with tokens of any age. Pruned with its room.
CREATE TABLE resolved_states (
    room_nid BIGINT NOT NULL,
    position BIGINT NOT NULL,
    state    BIGINT NOT NULL, -- state_snapshots.nid
    PRIMARY KEY (room_nid, position)
);
CREATE INDEX resolved_states_state ON resolved_states (state);

-- Of rooms that forked before, what their ends resolve to stands in the head alone.
INSERT INTO resolved_states (room_nid, position, state)
    SELECT room_nid, position, state FROM (
        SELECT h.room_nid, h.state, (SELECT e.position FROM events e
            WHERE e.room_nid = h.room_nid AND e.position > 0 AND e.position IS NOT NULL AND (e.status = 0 OR e.status = 4)
            ORDER BY e.position DESC LIMIT 1) AS position
        FROM room_heads h WHERE h.state <> 0) AS heads
    WHERE position IS NOT NULL;
