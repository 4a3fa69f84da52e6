-- How many events that are shown edit an event, answer it in a thread or refer to it, and where the last one stands. Written
-- with relations. A row goes with the last of these events; pruned with its room.
CREATE TABLE relation_groups (
    room_nid BIGINT NOT NULL,
    parent   TEXT NOT NULL,
    rel_type TEXT NOT NULL, -- m.replace, m.thread or m.reference
    count    BIGINT NOT NULL,
    last     BIGINT NOT NULL,
    PRIMARY KEY (room_nid, parent, rel_type)
);
INSERT INTO relation_groups (room_nid, parent, rel_type, count, last)
    SELECT room_nid, parent, rel_type, count(*), max(position) FROM relations
    WHERE rel_type IN ('m.replace', 'm.thread', 'm.reference') AND position IS NOT NULL GROUP BY room_nid, parent, rel_type;
-- The threads of a room, the last answered first: for queries that have the room in these words (see relations).
CREATE INDEX relation_groups_threads ON relation_groups ((room_nid + 0), last) WHERE rel_type = 'm.thread';

-- How many answers of a thread that are shown each user sent. Written and pruned in the same way.
CREATE TABLE thread_senders (
    room_nid BIGINT NOT NULL,
    root     TEXT NOT NULL,
    sender   TEXT NOT NULL,
    count    BIGINT NOT NULL,
    PRIMARY KEY (room_nid, root, sender)
);
INSERT INTO thread_senders (room_nid, root, sender, count)
    SELECT room_nid, parent, sender, count(*) FROM relations
    WHERE rel_type = 'm.thread' AND position IS NOT NULL GROUP BY room_nid, parent, sender;

ALTER TABLE relation_groups ALTER COLUMN room_nid SET STATISTICS 0;
ALTER TABLE relation_groups ALTER COLUMN parent SET STATISTICS 0;
ALTER TABLE relation_groups ALTER COLUMN rel_type SET STATISTICS 0;
ALTER TABLE relation_groups ALTER COLUMN last SET STATISTICS 0;
ALTER INDEX relation_groups_threads ALTER COLUMN 1 SET STATISTICS 0;
