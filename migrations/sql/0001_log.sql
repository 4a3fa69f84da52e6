-- Counters of the one log. "log": the last position taken; "history": the last negative position, as
-- a positive number; "number": the end of the last block of numbers handed to a process. Three rows.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('log', 0), ('history', 0), ('number', 0);

-- Facts about this database, such as the server name that it belongs to. A few rows.
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
