-- What has to be delivered to other servers, in order of position. Rows go once delivered, or when a
-- destination has been gone for too long.
CREATE TABLE outbox (
    destination TEXT NOT NULL,
    position    BIGINT NOT NULL,
    event_nid   BIGINT NOT NULL, -- 0: an ephemeral data unit
    edu         BYTEA,           -- its JSON
    PRIMARY KEY (destination, position)
);

-- Servers that could not be reached the last time. A row goes when its server is reached again.
CREATE TABLE destinations (
    name          TEXT PRIMARY KEY,
    failing_since BIGINT NOT NULL DEFAULT 0, -- milliseconds since 1970; 0: all is well
    retry_at      BIGINT NOT NULL DEFAULT 0,
    failures      BIGINT NOT NULL DEFAULT 0
);

-- Signing keys of other servers. Pruned a year after they expired.
CREATE TABLE server_keys (
    server      TEXT NOT NULL,
    key_id      TEXT NOT NULL,
    public_key  BYTEA NOT NULL,
    valid_until BIGINT NOT NULL, -- milliseconds since 1970: when it was or will be no longer valid
    expired     BOOLEAN NOT NULL, -- the server lists it among its old keys
    fetched     BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

-- Transactions received from other servers, so that a repeated one is answered as the first. Pruned after a day.
CREATE TABLE received_transactions (
    origin TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    answer BYTEA NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX received_transactions_at ON received_transactions (at);

-- The newest signed list of keys of each server, as it came: what a notary answers. Pruned a year after it was fetched.
CREATE TABLE server_key_lists (
    server      TEXT PRIMARY KEY,
    valid_until BIGINT NOT NULL, -- milliseconds since 1970, as the list says
    fetched     BIGINT NOT NULL,
    json        BYTEA NOT NULL
);
