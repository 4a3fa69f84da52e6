-- Whoever sends events can name predecessors that nobody has. So that these do not stand before those that can be had,
-- it is counted how often each was tried in vain, and each origin has its own turn.
ALTER TABLE missing_events ADD COLUMN origin TEXT NOT NULL DEFAULT '';  -- the site of the child's sender; '' of before
ALTER TABLE missing_events ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE missing_events ADD COLUMN tried BIGINT NOT NULL DEFAULT 0;  -- the last time, in milliseconds since 1970
