-- How many bytes are kept for a user, by kind: account_data, or key_backup for the keys of all versions. A row goes with
-- what it counts when the user is erased.
CREATE TABLE stored_bytes (
    user_id TEXT NOT NULL,
    kind    TEXT NOT NULL,
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (user_id, kind)
);
INSERT INTO stored_bytes (user_id, kind, bytes)
    SELECT user_id, 'account_data', sum(octet_length(room_id) + octet_length(type) + octet_length(content)) FROM account_data GROUP BY user_id;
INSERT INTO stored_bytes (user_id, kind, bytes)
    SELECT user_id, 'key_backup', sum(octet_length(session_data)) FROM key_backup_keys GROUP BY user_id;
