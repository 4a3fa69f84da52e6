-- Identity keys of devices: of local ones, and of remote ones as far as device_lists says that they are
-- cached. Pruned with the device, or with the cache.
CREATE TABLE device_keys (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT NOT NULL DEFAULT '', -- of remote devices; for local ones see devices
    keys         BYTEA NOT NULL,           -- canonical JSON without "unsigned"
    PRIMARY KEY (user_id, device_id)
);

-- One-time keys of local devices. A row goes when it is claimed, or with its device; limited in number.
CREATE TABLE one_time_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    serial    BIGINT NOT NULL, -- the order of uploads
    key       BYTEA NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_serial ON one_time_keys (user_id, device_id, algorithm, serial);

-- What is given out when a device has no one-time keys left. One row a device and algorithm.
CREATE TABLE fallback_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    key       BYTEA NOT NULL,
    used      BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- Cross-signing keys of local users, and of remote ones as far as they are cached. At most three rows a user.
CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage   TEXT NOT NULL,  -- "master", "self_signing" or "user_signing"
    key_id  TEXT NOT NULL,  -- the public key, in base64
    key     BYTEA NOT NULL, -- canonical JSON without "unsigned"
    PRIMARY KEY (user_id, usage)
);

-- Signatures that local users made of other users' master keys; only the signer sees them. One row a
-- pair; pruned when the signer's user-signing key changes.
CREATE TABLE user_signatures (
    signer     TEXT NOT NULL,
    target     TEXT NOT NULL,
    key_id     TEXT NOT NULL,  -- the master key that was signed
    signatures BYTEA NOT NULL, -- canonical JSON: key ID to signature
    position   BIGINT NOT NULL,
    PRIMARY KEY (signer, target)
);

-- Where each user's list of devices stands. Rows of remote users are pruned when they share no room with
-- anyone here.
CREATE TABLE device_lists (
    user_id   TEXT PRIMARY KEY,
    local     BOOLEAN NOT NULL,
    stream_id BIGINT NOT NULL DEFAULT 0, -- the last update sent; of remote users: received, 0 if not known
    position  BIGINT NOT NULL DEFAULT 0, -- of the last change
    cached_at BIGINT NOT NULL DEFAULT 0  -- of remote users: the position before the list was fetched; 0: not cached
);
CREATE INDEX device_lists_position ON device_lists (position);

-- Messages that wait for devices. A row goes when its device has received it, or with the device; of a
-- device that never comes the oldest go when there are too many.
CREATE TABLE to_device (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position  BIGINT NOT NULL,
    message   BYTEA NOT NULL, -- JSON: sender, type, content
    PRIMARY KEY (user_id, device_id, position)
);

-- Versions of key backups. Deleted ones are kept as marks, without keys, so that no version comes twice;
-- pruned with the account.
CREATE TABLE key_backups (
    user_id   TEXT NOT NULL,
    version   BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data BYTEA NOT NULL,
    etag      BIGINT NOT NULL DEFAULT 0,
    keys      BIGINT NOT NULL DEFAULT 0, -- how many there are
    deleted   BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, version)
);

-- Backed up session keys, which only their user's clients can read. Limited in number for each backup;
-- pruned with it.
CREATE TABLE key_backup_keys (
    user_id             TEXT NOT NULL,
    version             BIGINT NOT NULL,
    room_id             TEXT NOT NULL,
    session_id          TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count     BIGINT NOT NULL,
    is_verified         BOOLEAN NOT NULL,
    session_data        BYTEA NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);

-- Whose memberships changed in a part of the log, and which local users hold a room together.
CREATE INDEX memberships_position ON memberships (position);
CREATE INDEX memberships_local ON memberships (room_nid, position) WHERE local AND membership = 'join';
