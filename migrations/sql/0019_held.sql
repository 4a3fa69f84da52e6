-- What other servers sent and a fault of our own kept us from taking in: it is tried again. A row goes once it is taken in or
-- refused, or has been tried too often.
CREATE TABLE held_units (
    nid     BIGINT PRIMARY KEY,
    origin  TEXT NOT NULL,
    digest  TEXT NOT NULL, -- of room_id and json
    room_id TEXT NOT NULL, -- empty for an ephemeral data unit
    json    BYTEA NOT NULL,
    bytes   BIGINT NOT NULL,
    tries   BIGINT NOT NULL,
    due     BIGINT NOT NULL, -- not before, in milliseconds since 1970; whoever tries it holds it until then
    UNIQUE (origin, digest)
);
CREATE INDEX held_units_due ON held_units (due);
