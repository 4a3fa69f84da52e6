-- What users reported to the administrators. A repeated report replaces the former one; of one reporter the oldest go
-- when there are too many, and all go after half a year.
CREATE TABLE reports (
    reporter TEXT NOT NULL,
    room_id  TEXT NOT NULL,  -- empty: a user was reported
    event_id TEXT NOT NULL,  -- empty: a room or a user was reported
    user_id  TEXT NOT NULL,  -- who was reported, or who sent the event; empty: a room was reported
    reason   TEXT NOT NULL,
    at       BIGINT NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (reporter, room_id, event_id, user_id)
);
CREATE INDEX reports_at ON reports (at);
