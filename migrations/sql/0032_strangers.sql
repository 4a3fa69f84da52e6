-- Who of other servers is in a room, the latest first, and where one is who is looked for by ID: a search of users reads no
-- more rows than it may.
CREATE INDEX memberships_elsewhere ON memberships (room_nid, position) WHERE membership = 'join' AND NOT local;
CREATE INDEX memberships_strangers ON memberships (user_id COLLATE "C") WHERE membership = 'join' AND NOT local;
-- The rooms that are open to all, the largest first.
CREATE INDEX rooms_open ON rooms (joined_members, nid) WHERE join_rule = 'public' OR history_visibility = 'world_readable';
