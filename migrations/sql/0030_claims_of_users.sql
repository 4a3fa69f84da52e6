-- Claims are bounded by user, whose oldest go first. How many there are is counted with the bytes that are kept for a user.
DROP INDEX claimed_keys_serial;
CREATE INDEX claimed_keys_serial ON claimed_keys (user_id, serial);
INSERT INTO stored_bytes (user_id, kind, bytes)
    SELECT user_id, 'claims', count(*) FROM claimed_keys GROUP BY user_id;

-- What has had its time is found without a look at all that has not.
CREATE INDEX server_keys_validity ON server_keys (valid_until);
CREATE INDEX server_key_lists_fetched ON server_key_lists (fetched);
CREATE INDEX destinations_retry ON destinations (retry_at);
