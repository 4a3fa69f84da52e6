-- The public room list, the largest rooms first: a page of it reads as many rows as it has.
CREATE INDEX rooms_published ON rooms (joined_members, nid) WHERE published;
