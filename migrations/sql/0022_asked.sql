-- Of invites and knocks: who invited or knocked, that user's server, how many bytes are kept of the event and the stripped
-- state, and of the stripped state what is shown where all of it would be too much. Empty, and null, in rows from before.
ALTER TABLE memberships ADD COLUMN sender TEXT NOT NULL DEFAULT '';
ALTER TABLE memberships ADD COLUMN server TEXT NOT NULL DEFAULT '';
ALTER TABLE memberships ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE memberships ADD COLUMN brief BYTEA;
UPDATE memberships SET bytes = length(stripped) WHERE stripped IS NOT NULL;

-- How much a user is invited by whom is read without what is kept of it.
CREATE INDEX memberships_invites ON memberships (user_id, membership, server, sender, room_nid, bytes) WHERE membership = 'invite';
