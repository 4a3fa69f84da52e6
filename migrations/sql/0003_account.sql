-- Users of this server. Never pruned: a name that was once given must not be given again.
CREATE TABLE users (
    user_id       TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL,           -- PHC string; empty: no password lets anyone in
    admin         BOOLEAN NOT NULL DEFAULT FALSE,
    deactivated   BOOLEAN NOT NULL DEFAULT FALSE,
    erased        BOOLEAN NOT NULL DEFAULT FALSE,
    created_at    BIGINT NOT NULL          -- milliseconds since 1970, as all times here
);

-- Devices. A row goes with its logout.
CREATE TABLE devices (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT NOT NULL DEFAULT '',
    created_at   BIGINT NOT NULL,
    seen_at      BIGINT NOT NULL DEFAULT 0,
    seen_address TEXT NOT NULL DEFAULT '',
    seen_agent   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (user_id, device_id)
);

-- Access tokens with their refresh tokens, as SHA-256. Pruned with the device, and by the next refresh
-- once that has been used.
CREATE TABLE tokens (
    access_hash  BYTEA PRIMARY KEY,
    refresh_hash BYTEA UNIQUE,             -- null: cannot be refreshed
    replaces     BYTEA,                    -- refresh_hash of the row that goes as soon as this one is used
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    expires_at   BIGINT NOT NULL           -- of the access token; 0: never
);
CREATE INDEX tokens_device ON tokens (user_id, device_id);
CREATE INDEX tokens_replaces ON tokens (replaces);

-- Tokens that are good for one thing and a short time, as SHA-256. Pruned when used or expired.
CREATE TABLE passes (
    hash       BYTEA PRIMARY KEY,
    purpose    TEXT NOT NULL,              -- "login" or "openid"
    user_id    TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX passes_expiry ON passes (expires_at);

-- Tokens that let people register, as SHA-256. Pruned when used up or expired.
CREATE TABLE registration_tokens (
    hash       BYTEA PRIMARY KEY,
    uses       BIGINT NOT NULL,            -- how often it may still be used; -1: without limit
    admin      BOOLEAN NOT NULL,           -- who registers with it becomes an administrator
    bootstrap  BOOLEAN NOT NULL,           -- minted at start for the first administrator
    expires_at BIGINT NOT NULL             -- 0: never
);

-- Profile fields of local users. Limited in size for each user; pruned when an account is erased.
CREATE TABLE profiles (
    user_id TEXT NOT NULL,
    field   TEXT NOT NULL,
    value   TEXT NOT NULL,                 -- JSON
    folded  TEXT NOT NULL,                 -- of displayname: in lower case, for the user directory
    PRIMARY KEY (user_id, field)
);

-- What rooms still have to be told of a user. A row goes when it has been done.
CREATE TABLE account_errands (
    user_id TEXT NOT NULL,
    kind    TEXT NOT NULL,                 -- "profile" or "leave"
    serial  BIGINT NOT NULL,               -- grows when the same is asked for again
    PRIMARY KEY (user_id, kind)
);

-- Account data, global where room_id is empty. One row a type, limited in number for each user; pruned
-- when an account is erased.
CREATE TABLE account_data (
    user_id  TEXT NOT NULL,
    room_id  TEXT NOT NULL,
    type     TEXT NOT NULL,
    content  TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_position ON account_data (user_id, position);

-- Filters of syncs, each once. The oldest of a user goes when there are too many.
CREATE TABLE filters (
    user_id   TEXT NOT NULL,
    filter_id BIGINT NOT NULL,
    hash      BYTEA NOT NULL,
    content   TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id),
    UNIQUE (user_id, hash)
);
