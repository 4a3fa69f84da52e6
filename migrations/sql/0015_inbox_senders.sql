-- Who sent a message, so that none who send much push out what others sent. Empty: it came before this was noted.
ALTER TABLE to_device ADD COLUMN sender TEXT NOT NULL DEFAULT '';
