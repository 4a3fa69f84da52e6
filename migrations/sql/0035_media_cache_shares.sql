-- Thumbnails count for the media cache, too, and who fills the cache loses of it: it is kept who had a file fetched or drawn, a
-- user or a server; empty: it was before that was kept.
ALTER TABLE media ADD COLUMN asked_by TEXT NOT NULL DEFAULT '';
ALTER TABLE thumbnails ADD COLUMN asked_by TEXT NOT NULL DEFAULT '';
ALTER TABLE thumbnails ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX media_cache;
CREATE INDEX media_cache ON media (asked_by, used_at, size) WHERE cached;
CREATE INDEX media_retention ON media (used_at) WHERE cached;
CREATE INDEX thumbnails_cache ON thumbnails (asked_by, created_at, size) WHERE hash <> source;
