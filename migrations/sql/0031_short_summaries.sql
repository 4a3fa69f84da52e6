-- Lists of rooms show the beginning of long texts. What the rooms' states say stays whole.
UPDATE rooms SET name = substr(name, 1, 500) WHERE octet_length(name) > 2048;
UPDATE rooms SET topic = substr(topic, 1, 500) WHERE octet_length(topic) > 2048;
UPDATE rooms SET avatar_url = '' WHERE octet_length(avatar_url) > 2048;
UPDATE rooms SET canonical_alias = '' WHERE octet_length(canonical_alias) > 2048;
