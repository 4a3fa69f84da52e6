-- Room aliases of this server. A row goes when its alias is deleted.
CREATE TABLE aliases (
    alias   TEXT PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_id);
