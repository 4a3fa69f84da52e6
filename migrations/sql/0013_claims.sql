-- One-time keys that were given out, so that none is taken again. Pruned with the device; of a device that uploads for ever
-- the oldest go when there are too many.
CREATE TABLE claimed_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    serial    BIGINT NOT NULL, -- the order of claims
    hash      BYTEA NOT NULL,  -- SHA-256 of the key
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX claimed_keys_serial ON claimed_keys (user_id, device_id, serial);
