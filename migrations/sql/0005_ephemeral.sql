-- How far users have read. One row a user, type and thread of a room; pruned with its room.
CREATE TABLE receipts (
    room_nid   BIGINT NOT NULL,
    user_id    TEXT NOT NULL,
    type       TEXT NOT NULL,   -- "m.read" or "m.read.private"
    thread     TEXT NOT NULL,   -- empty: whatever the thread; "main", or the event at the root of a thread
    event_id   TEXT NOT NULL,
    event_at   BIGINT NOT NULL, -- position of that event, 0 if it is not here
    ts         BIGINT NOT NULL, -- milliseconds since 1970, as the sender says
    position   BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_id, type, thread)
);
CREATE INDEX receipts_position ON receipts (room_nid, position);
