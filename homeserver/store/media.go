package store

import (
	"database/sql"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// MediaRow is one piece of media.
type MediaRow struct {
	Origin      id.ServerName
	ID          string
	Hash        string // of its file; empty if it is still to be uploaded
	Size        int64
	ContentType string
	Name        string
	Uploader    id.UserID
	Cached      bool
	AskedBy     string // of what is cached: the user or server that had it fetched
	CreatedAt   int64
	UsedAt      int64
}

// Thumbnail is a thumbnail of an image.
type Thumbnail struct {
	Source        string // hash of the image
	Width, Height int
	Crop          bool
	Hash          string
	Size          int64
	ContentType   string
	AskedBy       string // the user or server that had it drawn
	CreatedAt     int64
}

// Media are the descriptions of media.
type Media struct{ tx *Tx }

// Insert adds a piece of media, and counts it for who uploaded it; false if there is one of that name.
func (s Media) Insert(m MediaRow) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO media (origin, media_id, hash, size, content_type, name, uploader, cached, asked_by, created_at, used_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(m.Origin), m.ID, m.Hash, m.Size, m.ContentType, m.Name, string(m.Uploader), m.Cached, m.AskedBy, m.CreatedAt, m.UsedAt)
	return n == 1, s.count(m, n, err)
}

func (s Media) count(m MediaRow, rows int64, err error) error {
	if err != nil || rows == 0 || m.Uploader == "" {
		return err
	}
	return s.tx.Stored.add(m.Uploader, StoredMedia, int(m.Size))
}

// Fill describes what its uploader has uploaded for a name that was handed out, and counts it; false if that has been done before.
func (s Media) Fill(m MediaRow) (bool, error) {
	n, err := s.tx.exec(`UPDATE media SET hash = ?, size = ?, content_type = ?, name = ? WHERE origin = ? AND media_id = ? AND hash = ''`,
		m.Hash, m.Size, m.ContentType, m.Name, string(m.Origin), m.ID)
	return n == 1, s.count(m, n, err)
}

// Get finds a piece of media; false if it is not known.
func (s Media) Get(origin id.ServerName, mediaID string) (MediaRow, bool, error) {
	m := MediaRow{Origin: origin, ID: mediaID}
	ok, err := s.tx.row([]any{&m.Hash, &m.Size, &m.ContentType, &m.Name, &m.Uploader, &m.Cached, &m.CreatedAt, &m.UsedAt},
		`SELECT hash, size, content_type, name, uploader, cached, created_at, used_at FROM media WHERE origin = ? AND media_id = ?`, string(origin), mediaID)
	return m, ok, err
}

// CountPending is how many names a user has that were handed out after a time and not been used.
func (s Media) CountPending(user id.UserID, after time.Time) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM media WHERE uploader = ? AND created_at > ? AND hash = ''`, string(user), after.UnixMilli())
	return n, err
}

// SetUsed notes when a piece of media was last asked for.
func (s Media) SetUsed(origin id.ServerName, mediaID string, at time.Time) error {
	_, err := s.tx.exec(`UPDATE media SET used_at = ? WHERE origin = ? AND media_id = ?`, at.UnixMilli(), string(origin), mediaID)
	return err
}

// A thumbnail may be the image itself, which takes no more room.
const drawnApart = `hash <> source`

// CachedBytes is how much is cached, with thumbnails, by who asked for it. It looks at all of it: use it in a View.
func (s Media) CachedBytes() (map[string]int, error) {
	out := map[string]int{}
	err := s.tx.query(func(rows *sql.Rows) error {
		var who string
		var bytes int
		err := rows.Scan(&who, &bytes)
		out[who] += bytes
		return err
	}, `SELECT asked_by, SUM(size) FROM media WHERE cached GROUP BY asked_by
		UNION ALL SELECT asked_by, SUM(size) FROM thumbnails WHERE `+drawnApart+` GROUP BY asked_by`)
	return out, err
}

// Oldest lists what is cached because of somebody and was not used for longest.
func (s Media) Oldest(askedBy string, limit int) ([]MediaRow, error) {
	var out []MediaRow
	err := s.tx.query(func(rows *sql.Rows) error {
		var m MediaRow
		err := rows.Scan(&m.Origin, &m.ID, &m.Hash, &m.Size, &m.UsedAt)
		out = append(out, m)
		return err
	}, `SELECT origin, media_id, hash, size, used_at FROM media WHERE cached AND asked_by = ? ORDER BY used_at, size LIMIT ?`, askedBy, limit)
	return out, err
}

// OldestThumbnails lists the thumbnails that were drawn first for somebody.
func (s Media) OldestThumbnails(askedBy string, limit int) ([]Thumbnail, error) {
	var out []Thumbnail
	err := s.tx.query(func(rows *sql.Rows) error {
		var t Thumbnail
		err := rows.Scan(&t.Source, &t.Width, &t.Height, &t.Crop, &t.Hash, &t.Size, &t.CreatedAt)
		out = append(out, t)
		return err
	}, `SELECT source, width, height, crop, hash, size, created_at FROM thumbnails WHERE `+drawnApart+` AND asked_by = ?
		ORDER BY created_at, size LIMIT ?`, askedBy, limit)
	return out, err
}

// ForgetAsker forgets that a user had media fetched or thumbnails drawn, at most limit of each, and returns how many of what
// were most.
func (s Media) ForgetAsker(user id.UserID, limit int) (int64, error) {
	var most int64
	for _, table := range []string{"media", "thumbnails"} {
		n, err := s.tx.exec(updateSome(s.tx.db.postgres, table, `asked_by = ''`, `asked_by = ?`), string(user), limit)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

// DeleteDrawn forgets thumbnails, which can be drawn again.
func (s Media) DeleteDrawn(list []Thumbnail) error {
	for _, t := range list {
		_, err := s.tx.exec(`DELETE FROM thumbnails WHERE source = ? AND width = ? AND height = ? AND crop = ?`, t.Source, t.Width, t.Height, t.Crop)
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteCached forgets pieces of media that are cached.
func (s Media) DeleteCached(list []MediaRow) error {
	for _, m := range list {
		if _, err := s.tx.exec(`DELETE FROM media WHERE origin = ? AND media_id = ? AND cached`, string(m.Origin), m.ID); err != nil {
			return err
		}
	}
	return nil
}

// Prune forgets what is cached and has not been used since a time, and uploads that did not come for names handed out
// before another one: at most limit of each. It returns how many of what went most.
func (s Media) Prune(usedBefore, pendingBefore time.Time, limit int) (int64, error) {
	cached, err := s.tx.exec(deleteSome(s.tx.db.postgres, "media", `cached AND used_at < ?`), usedBefore.UnixMilli(), limit)
	if err != nil {
		return 0, err
	}
	pending, err := s.tx.exec(deleteSome(s.tx.db.postgres, "media", `hash = '' AND created_at < ?`), pendingBefore.UnixMilli(), limit)
	return max(cached, pending), err
}

const withoutImage = `NOT EXISTS (SELECT 1 FROM media WHERE media.hash = thumbnails.source)`

// Orphans lists images, at most limit, that are gone and still have thumbnails. It looks at all thumbnails: use it in a View.
func (s Media) Orphans(limit int) ([]string, error) {
	var out []string
	err := s.tx.query(func(rows *sql.Rows) error {
		var source string
		if err := rows.Scan(&source); err != nil {
			return err
		}
		out = append(out, source)
		return nil
	}, `SELECT DISTINCT source FROM thumbnails WHERE `+withoutImage+` LIMIT ?`, limit)
	return out, err
}

// ThumbnailsOf lists the files of the thumbnails of some images.
func (s Media) ThumbnailsOf(sources []string) ([]string, error) {
	var out []string
	err := s.tx.query(func(rows *sql.Rows) error {
		var hash string
		if err := rows.Scan(&hash); err != nil {
			return err
		}
		out = append(out, hash)
		return nil
	}, `SELECT hash FROM thumbnails WHERE source IN (?)`, bun.In(sources))
	return out, err
}

// DeleteThumbnails removes the thumbnails of those of some images that are gone.
func (s Media) DeleteThumbnails(sources []string) error {
	_, err := s.tx.exec(`DELETE FROM thumbnails WHERE source IN (?) AND `+withoutImage, bun.In(sources))
	return err
}

// InsertThumbnail adds a thumbnail, unless there is one of that size.
func (s Media) InsertThumbnail(t Thumbnail) error {
	_, err := s.tx.exec(`INSERT INTO thumbnails (source, width, height, crop, hash, size, content_type, asked_by, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		t.Source, t.Width, t.Height, t.Crop, t.Hash, t.Size, t.ContentType, t.AskedBy, t.CreatedAt)
	return err
}

// Thumbnail finds a thumbnail by its source and size, and fills in the rest; false if there is none.
func (s Media) Thumbnail(t Thumbnail) (Thumbnail, bool, error) {
	ok, err := s.tx.row([]any{&t.Hash, &t.Size, &t.ContentType},
		`SELECT hash, size, content_type FROM thumbnails WHERE source = ? AND width = ? AND height = ? AND crop = ?`, t.Source, t.Width, t.Height, t.Crop)
	return t, ok, err
}

// InUse tells which of the files are still referred to.
func (s Media) InUse(hashes []string) (map[string]bool, error) {
	used := map[string]bool{}
	for chunk := range slices.Chunk(hashes, 500) {
		for _, table := range []string{"media", "thumbnails"} {
			err := s.tx.query(func(rows *sql.Rows) error {
				var hash string
				if err := rows.Scan(&hash); err != nil {
					return err
				}
				used[hash] = true
				return nil
			}, `SELECT DISTINCT hash FROM `+table+` WHERE hash IN (?)`, bun.In(chunk))
			if err != nil {
				return nil, err
			}
		}
	}
	return used, nil
}
