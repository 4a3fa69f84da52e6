-- An errand that fails waits longer each time, and is given up after so many times.
ALTER TABLE account_errands ADD COLUMN failures BIGINT NOT NULL DEFAULT 0; -- since it was last asked for
ALTER TABLE account_errands ADD COLUMN due BIGINT NOT NULL DEFAULT 0; -- not before, in milliseconds since 1970
CREATE INDEX account_errands_due ON account_errands (due, user_id, kind);
