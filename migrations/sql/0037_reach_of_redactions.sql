-- Whose events a redaction that waits for its target may redact, by the state of the room when it came; server says so for
-- events from before this server's users were in the room. Nobody's ("@") for those that waited before: they were not held against it.
ALTER TABLE pending_redactions ADD COLUMN current TEXT NOT NULL DEFAULT '@';
