-- Media: what users uploaded, what was fetched from other servers and for previews. The content is in files named by
-- its hash. Cached rows go when nobody has used them for the retention time, uploads that never came after a day.
CREATE TABLE media (
    origin       TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    hash         TEXT NOT NULL,    -- SHA-256 of the content in hexadecimal; empty: it is still to be uploaded
    size         BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    name         TEXT NOT NULL,    -- empty: none was given
    uploader     TEXT NOT NULL,    -- empty: cached
    cached       BOOLEAN NOT NULL, -- it can be fetched again
    created_at   BIGINT NOT NULL,
    used_at      BIGINT NOT NULL,  -- of what is cached: when it was last asked for, to the hour
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_hash ON media (hash);
CREATE INDEX media_used ON media (used_at) WHERE cached;
CREATE INDEX media_pending ON media (uploader, created_at) WHERE hash = '';

-- Thumbnails of images, by the hash of the image. A row goes with the last media of that hash.
CREATE TABLE thumbnails (
    source       TEXT NOT NULL,
    width        BIGINT NOT NULL,
    height       BIGINT NOT NULL,
    crop         BOOLEAN NOT NULL,
    hash         TEXT NOT NULL,    -- of the thumbnail's file
    size         BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    PRIMARY KEY (source, width, height, crop)
);
CREATE INDEX thumbnails_hash ON thumbnails (hash);
