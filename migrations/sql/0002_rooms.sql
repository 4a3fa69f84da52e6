-- One row a room. Pruned when a room is purged.
CREATE TABLE rooms (
    nid     BIGINT PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- what the public room list and summaries show, kept up to date with the current state
    name TEXT NOT NULL DEFAULT '', topic TEXT NOT NULL DEFAULT '', avatar_url TEXT NOT NULL DEFAULT '',
    canonical_alias TEXT NOT NULL DEFAULT '', join_rule TEXT NOT NULL DEFAULT 'invite',
    history_visibility TEXT NOT NULL DEFAULT 'shared', guest_access TEXT NOT NULL DEFAULT 'forbidden',
    room_type TEXT NOT NULL DEFAULT '', encryption TEXT NOT NULL DEFAULT '',
    joined_members BIGINT NOT NULL DEFAULT 0, invited_members BIGINT NOT NULL DEFAULT 0,
    published BOOLEAN NOT NULL DEFAULT FALSE
);

-- The head of each room: changed by compare-and-swap on seq. One row a room.
CREATE TABLE room_heads (
    room_nid    BIGINT PRIMARY KEY,
    seq         BIGINT NOT NULL,
    state       BIGINT NOT NULL, -- state_snapshots.nid of the current state
    extremities TEXT NOT NULL    -- JSON: [[event number, event id, depth], ...]
);

-- Every event, once, in its federation form. Pruned with its room; redaction shortens json in place.
CREATE TABLE events (
    nid          BIGINT PRIMARY KEY,
    event_id     TEXT NOT NULL UNIQUE,
    room_nid     BIGINT NOT NULL,
    position     BIGINT,          -- null: an outlier, known but not part of the room's history here
    state_before BIGINT NOT NULL, -- state_snapshots.nid; 0 for outliers
    status       BIGINT NOT NULL, -- bits: 1 rejected, 2 soft-failed
    redacted_by  BIGINT NOT NULL DEFAULT 0,
    json         BYTEA NOT NULL
);
CREATE UNIQUE INDEX events_room_position ON events (room_nid, position) WHERE position IS NOT NULL;

-- Interned (type, state key) pairs. Grows with the kinds of state seen; not pruned, since it is shared by all rooms.
CREATE TABLE state_keys (
    nid       BIGINT PRIMARY KEY,
    type      TEXT NOT NULL,
    state_key TEXT NOT NULL,
    UNIQUE (type, state_key)
);

-- States of rooms as differences: delta holds varint pairs (state key, event), event 0 for removal.
-- Pruned by the store's collector once no event, head or child refers to a row.
CREATE TABLE state_snapshots (
    nid      BIGINT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    parent   BIGINT NOT NULL, -- 0: delta is the whole state
    chain    BIGINT NOT NULL, -- how many parents there are
    delta    BYTEA NOT NULL
);
CREATE INDEX state_snapshots_room ON state_snapshots (room_nid);

-- The current membership of every user in every room. Pruned with its room.
CREATE TABLE memberships (
    room_nid   BIGINT NOT NULL,
    user_id    TEXT NOT NULL,
    membership TEXT NOT NULL,
    event_nid  BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    forgotten  BOOLEAN NOT NULL DEFAULT FALSE,
    local      BOOLEAN NOT NULL,
    stripped   BYTEA, -- of invites and knocks: the JSON array of stripped state, as given
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id, membership);

-- The former memberships of local users: which part of a room's history a user may see, and which
-- rooms a sync has to tell of. Pruned with its room.
CREATE TABLE membership_log (
    position   BIGINT NOT NULL,
    room_nid   BIGINT NOT NULL,
    user_id    TEXT NOT NULL,
    membership TEXT NOT NULL,
    former     TEXT NOT NULL,
    event_nid  BIGINT NOT NULL,
    PRIMARY KEY (position, user_id) -- a room that is joined at another server brings many at once
);
CREATE INDEX membership_log_user ON membership_log (user_id, position);

-- Transaction IDs of requests, so that a repeated one is answered as the first. Pruned after a day.
CREATE TABLE transactions (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope     TEXT NOT NULL, -- what the ID is unique within: the endpoint and the room
    txn_id    TEXT NOT NULL,
    answer    TEXT NOT NULL,
    at        BIGINT NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (user_id, device_id, scope, txn_id)
);
CREATE INDEX transactions_at ON transactions (at);

-- Events that relate to others (Client-Server API, "Relationships"). Pruned with its room.
CREATE TABLE relations (
    event_nid BIGINT PRIMARY KEY,
    room_nid  BIGINT NOT NULL,
    parent    TEXT NOT NULL, -- the event ID that is related to
    rel_type  TEXT NOT NULL,
    type      TEXT NOT NULL,
    sender    TEXT NOT NULL,
    key       TEXT NOT NULL DEFAULT ''
);
CREATE INDEX relations_parent ON relations (room_nid, parent);

-- Redactions whose target has not arrived. A row goes when the target comes; pruned with its room.
CREATE TABLE pending_redactions (
    redacts   TEXT NOT NULL,
    room_nid  BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (redacts, event_nid)
);

-- Events that others refer to and that we do not have: where backfilling goes on. Pruned as they arrive.
CREATE TABLE missing_events (
    room_nid BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    child    BIGINT NOT NULL, -- the event that names it as its predecessor
    PRIMARY KEY (room_nid, event_id, child)
);
