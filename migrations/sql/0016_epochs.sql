-- Each start of a server begins an epoch of the log. A token names the epoch that its position is in: one of a life of the
-- database that was lost, whose positions have come again since a backup was restored, is told by that. The newest 4096
-- stay; a token from before the oldest of them, that many starts ago, counts as lost.
CREATE TABLE epochs (
    first   BIGINT PRIMARY KEY,  -- position in the log; nothing else has it
    id      TEXT NOT NULL UNIQUE,
    history BIGINT NOT NULL      -- the counter of that name when it began
);

-- When a filter was made: its number is of its content now, so that no number ever comes to mean another filter.
ALTER TABLE filters ADD COLUMN at BIGINT NOT NULL DEFAULT 0; -- milliseconds since 1970; 0: before this was noted
