-- Of data units that wait for other servers: whose share of what may wait they take up (a local user; empty if their number
-- is bounded otherwise, and of those from before), how many bytes they have, and what they tell of. A later one about the
-- same may take the place of those before it.
ALTER TABLE outbox ADD COLUMN sender TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN subject TEXT NOT NULL DEFAULT '';

-- How much waits of whom and for whom, and what is about the same, is read without the units themselves.
CREATE INDEX outbox_sender ON outbox (sender, destination, position, bytes) WHERE sender <> '';
CREATE INDEX outbox_subject ON outbox (subject, destination, bytes) WHERE subject <> '';
