-- What a held event is called, and the held event that it follows and waits for; both empty if that is not known.
ALTER TABLE held_units ADD COLUMN event_id TEXT NOT NULL DEFAULT '';
ALTER TABLE held_units ADD COLUMN follows TEXT NOT NULL DEFAULT '';
CREATE INDEX held_units_event ON held_units (room_id, event_id);
CREATE INDEX held_units_follows ON held_units (room_id, follows);
