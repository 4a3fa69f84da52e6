-- Where notifications go to: one row for each app on each device. A row goes with its device, or when the app is
-- used by another user.
CREATE TABLE pushers (
    user_id    TEXT NOT NULL,
    app_id     TEXT NOT NULL,
    push_key   TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    content    TEXT NOT NULL, -- JSON, as clients see it
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, app_id, push_key),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);
CREATE INDEX pushers_app ON pushers (app_id, push_key);
CREATE INDEX pushers_device ON pushers (user_id, device_id);
