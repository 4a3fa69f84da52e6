-- How much waits of each server, and what of it came first, is read without the units themselves.
CREATE INDEX held_units_origin ON held_units (origin, nid, bytes);
