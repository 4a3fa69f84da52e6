-- Whose users' events a redaction that waits for its target may redact: empty for everybody's, as with those that waited
-- before; each is checked again when its target comes.
ALTER TABLE pending_redactions ADD COLUMN server TEXT NOT NULL DEFAULT '';
