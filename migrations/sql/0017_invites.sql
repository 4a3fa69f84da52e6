-- Invites that a new room began with and that have not been delivered. A row goes once its invite is delivered, refused or
-- a day old; pruned with its room. One user can have a limited number of them.
CREATE TABLE pending_invites (
    room_nid BIGINT NOT NULL,
    user_id  TEXT NOT NULL,    -- who is to be invited
    server   TEXT NOT NULL,    -- of whom is to be invited
    sender   TEXT NOT NULL,
    direct   BOOLEAN NOT NULL, -- is_direct
    since    BIGINT NOT NULL,  -- milliseconds since 1970
    due      BIGINT NOT NULL,  -- not before; who tries moves it on first, so that nobody else does
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX pending_invites_due ON pending_invites (due);
CREATE INDEX pending_invites_sender ON pending_invites (sender);

-- The server through which a user was invited to a room, or knocked, that this server is not in: the one to turn to about it.
ALTER TABLE memberships ADD COLUMN via TEXT NOT NULL DEFAULT '';

-- Which rooms users of this server are in.
CREATE INDEX memberships_here ON memberships (room_nid) WHERE local AND membership = 'join';
