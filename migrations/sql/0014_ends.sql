-- The ends of rooms that are too many for the row of the head. A row goes once an event names its end, and with its room.
CREATE TABLE further_ends (
    room_nid  BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    event_id  TEXT NOT NULL,
    depth     BIGINT NOT NULL,
    state     BIGINT NOT NULL, -- state_snapshots.nid of the state before the event, or of one that was resolved from several ends
    state_key BIGINT NOT NULL, -- state_keys.nid of what the event sets on top of that; 0: nothing
    PRIMARY KEY (room_nid, event_nid)
);
CREATE INDEX further_ends_state ON further_ends (state);
