-- Ends that speak for others, which there was no place for, stay until an event of this server names them: whoever else
-- names them knows only what they say themselves.
ALTER TABLE further_ends ADD COLUMN stays BOOLEAN NOT NULL DEFAULT FALSE;
