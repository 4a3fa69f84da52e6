-- How many bytes a user has uploaded is counted in stored_bytes, of kind media.
INSERT INTO stored_bytes (user_id, kind, bytes)
    SELECT uploader, 'media', SUM(size) FROM media WHERE uploader <> '' AND hash <> '' GROUP BY uploader;

-- How much is cached, and what of it was not used longest, is read without the rows.
CREATE INDEX media_cache ON media (used_at, size) WHERE cached;
DROP INDEX media_used;
