-- How events relate to others, with the place of the event that relates in its room's log: null if it is not shown to
-- clients, or not yet. Of what relates to one event no more is read than is asked for: each way of asking has an index of
-- its own, whose columns no other one can serve. Where a column is written as an expression, only the index that has it in
-- the same words fits. PostgreSQL keeps no statistics of these columns: by what it knows of all events it would read
-- everything that relates to one, which is little as a rule, and sort it. A row goes when its event is redacted; pruned
-- with its room.
CREATE TABLE relations_placed (
    event_nid BIGINT PRIMARY KEY,
    room_nid  BIGINT NOT NULL,
    position  BIGINT,
    parent    TEXT NOT NULL, -- the event ID that is related to
    rel_type  TEXT NOT NULL,
    type      TEXT NOT NULL,
    sender    TEXT NOT NULL,
    key       TEXT NOT NULL DEFAULT '' -- of annotations
);
INSERT INTO relations_placed (event_nid, room_nid, position, parent, rel_type, type, sender, key)
    SELECT r.event_nid, r.room_nid, CASE WHEN e.status = 0 THEN e.position END, r.parent, r.rel_type, r.type, r.sender,
        CASE WHEN r.rel_type = 'm.annotation' THEN r.key ELSE '' END
    FROM relations r JOIN events e ON e.nid = r.event_nid;
DROP TABLE relations;
ALTER TABLE relations_placed RENAME TO relations;

CREATE INDEX relations_any ON relations (room_nid, parent, position);
CREATE INDEX relations_way ON relations (rel_type, (room_nid + 0), parent, position);
CREATE INDEX relations_type ON relations (type, (room_nid + 0), parent, (rel_type || ''), position);
CREATE INDEX relations_sender ON relations (sender, (room_nid + 0), parent, (rel_type || ''), (type || ''), key, position);

ALTER TABLE relations ALTER COLUMN room_nid SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN position SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN parent SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN rel_type SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN type SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN sender SET STATISTICS 0;
ALTER TABLE relations ALTER COLUMN key SET STATISTICS 0;
ALTER INDEX relations_way ALTER COLUMN 2 SET STATISTICS 0;
ALTER INDEX relations_type ALTER COLUMN 2 SET STATISTICS 0;
ALTER INDEX relations_type ALTER COLUMN 4 SET STATISTICS 0;
ALTER INDEX relations_sender ALTER COLUMN 2 SET STATISTICS 0;
ALTER INDEX relations_sender ALTER COLUMN 4 SET STATISTICS 0;
ALTER INDEX relations_sender ALTER COLUMN 5 SET STATISTICS 0;
