package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/store"
)

func (a *API) keyBackupRoutes() []route {
	return []route{
		{POST, "/v3/room_keys/version", user, none, a.createBackup},
		{GET, "/v3/room_keys/version", user, none, a.backup},
		{GET, "/v3/room_keys/version/:version", user, none, a.backup},
		{PUT, "/v3/room_keys/version/:version", user, none, a.updateBackup},
		{DELETE, "/v3/room_keys/version/:version", user, none, a.deleteBackup},
		{PUT, "/v3/room_keys/keys", user, limitCostly, a.putBackupKeys},
		{GET, "/v3/room_keys/keys", user, limitCostly, a.backupKeys},
		{DELETE, "/v3/room_keys/keys", user, none, a.deleteBackupKeys},
		{PUT, "/v3/room_keys/keys/:roomId", user, limitCostly, a.putBackupKeys},
		{GET, "/v3/room_keys/keys/:roomId", user, limitCostly, a.backupKeys},
		{DELETE, "/v3/room_keys/keys/:roomId", user, none, a.deleteBackupKeys},
		{PUT, "/v3/room_keys/keys/:roomId/:sessionId", user, none, a.putBackupKeys},
		{GET, "/v3/room_keys/keys/:roomId/:sessionId", user, none, a.backupKeys},
		{DELETE, "/v3/room_keys/keys/:roomId/:sessionId", user, none, a.deleteBackupKeys},
	}
}

// maxBackupBody is how large an upload of keys may be: clients send some hundred at once.
const maxBackupBody = 16 << 20

// maxBackupCalls is how many uploads and downloads of many keys a user has going at a time.
const maxBackupCalls = 2

func (a *API) createBackup(c *call) (any, error) {
	var in struct {
		Algorithm string          `json:"algorithm"`
		AuthData  json.RawMessage `json:"auth_data"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	version, err := a.Keys.CreateBackup(c.Request().Context(), c.Requester.User, in.Algorithm, in.AuthData)
	if err != nil {
		return nil, err
	}
	return map[string]any{"version": version}, nil
}

func (a *API) backup(c *call) (any, error) {
	b, err := a.Keys.GetBackup(c.Request().Context(), c.Requester.User, c.path("version"))
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"algorithm": b.Algorithm, "auth_data": b.AuthData, "version": b.Version, "count": b.Count, "etag": b.ETag,
	}, nil
}

func (a *API) updateBackup(c *call) (any, error) {
	var in struct {
		Algorithm string          `json:"algorithm"`
		AuthData  json.RawMessage `json:"auth_data"`
		Version   *string         `json:"version"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	version := c.path("version")
	if in.Version != nil && *in.Version != version {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "the version in the body is another one than in the path")
	}
	b := keys.Backup{Version: version, Algorithm: in.Algorithm, AuthData: in.AuthData}
	return nil, a.Keys.UpdateBackup(c.Request().Context(), c.Requester.User, b)
}

func (a *API) deleteBackup(c *call) (any, error) {
	return nil, a.Keys.DeleteBackup(c.Request().Context(), c.Requester.User, c.path("version"))
}

// backupKey is a key in a backup as clients see it.
type backupKey struct {
	FirstMessageIndex int64           `json:"first_message_index"`
	ForwardedCount    int64           `json:"forwarded_count"`
	IsVerified        bool            `json:"is_verified"`
	SessionData       json.RawMessage `json:"session_data"`
}

type backupRoom struct {
	Sessions map[string]backupKey `json:"sessions"`
}

// backupSelection reads which keys of a backup a request is about.
func (c *call) backupSelection() (sel keys.BackupSelection, err error) {
	if sel.Version = c.query("version"); sel.Version == "" {
		return sel, missing("version")
	}
	if c.path("roomId") != "" {
		sel.Room, err = c.roomID()
	}
	sel.Session = c.path("sessionId")
	return sel, err
}

// decodeBackupKeys reads the keys of a body, whose form depends on what the path already says.
func (c *call) decodeBackupKeys(sel keys.BackupSelection) ([]store.BackupKey, error) {
	rooms := map[id.RoomID]backupRoom{}
	var err error
	switch {
	case sel.Session != "":
		var key backupKey
		err = c.decodeUpTo(maxBackupBody, &key)
		rooms[sel.Room] = backupRoom{map[string]backupKey{sel.Session: key}}
	case sel.Room != "":
		var room backupRoom
		err = c.decodeUpTo(maxBackupBody, &room)
		rooms[sel.Room] = room
	default:
		var all struct {
			Rooms map[id.RoomID]backupRoom `json:"rooms"`
		}
		err = c.decodeUpTo(maxBackupBody, &all)
		rooms = all.Rooms
	}
	var out []store.BackupKey
	for room, of := range rooms {
		for session, k := range of.Sessions {
			out = append(out, store.BackupKey{
				Room: room, Session: session, FirstMessageIndex: k.FirstMessageIndex, ForwardedCount: k.ForwardedCount,
				IsVerified: k.IsVerified, SessionData: k.SessionData,
			})
		}
	}
	return out, err
}

func (a *API) putBackupKeys(c *call) (any, error) {
	sel, err := c.backupSelection()
	if err != nil {
		return nil, err
	}
	leave, err := a.backups.enter(c.Requester.User, maxBackupCalls)
	if err != nil {
		return nil, err
	}
	defer leave()
	list, err := c.decodeBackupKeys(sel)
	if err != nil {
		return nil, err
	}
	state, err := a.Keys.PutBackupKeys(c.Request().Context(), c.Requester.User, sel.Version, list)
	var wrong *keys.WrongVersionError
	if errors.As(err, &wrong) {
		return nil, failWith(http.StatusForbidden, "M_WRONG_ROOM_KEYS_VERSION", wrong.Error(), map[string]any{"current_version": wrong.Current})
	}
	return describeBackup(state), err
}

func describeBackup(s keys.BackupState) any {
	return map[string]any{"count": s.Count, "etag": s.ETag}
}

func (a *API) backupKeys(c *call) (any, error) {
	sel, err := c.backupSelection()
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	if sel.Session != "" {
		var key backupKey
		err := a.Keys.BackupKeys(ctx, c.Requester.User, sel, func(list []store.BackupKey) error {
			key = describeBackupKey(list[0])
			return nil
		})
		return key, err
	}
	leave, err := a.backups.enter(c.Requester.User, maxBackupCalls)
	if err != nil {
		return nil, err
	}
	defer leave()
	w := &backupWriter{outgoing: outgoing{c: c}, all: sel.Room == ""}
	if err = a.Keys.BackupKeys(ctx, c.Requester.User, sel, w.write); err == nil {
		err = w.end()
	}
	return nil, w.whole(err)
}

// backupWriter writes the keys of a backup as they come, since they may be too many to be held at once.
type backupWriter struct {
	outgoing
	all  bool // of all rooms, which the answer is sorted by
	room id.RoomID
	any  bool // a session of the room has been written
}

func (w *backupWriter) write(list []store.BackupKey) error {
	if !w.c.Response().Committed {
		if err := w.begin(); err != nil {
			return err
		}
		w.buf = append(w.buf, `{"sessions":{`...)
		if w.all {
			w.buf = append(w.buf[:0], `{"rooms":{`...)
		}
	}
	for _, k := range list {
		if w.all && k.Room != w.room {
			if w.room != "" {
				w.buf = append(w.buf, `}},`...)
			}
			w.room, w.any = k.Room, false
			w.buf = append(appendName(w.buf, string(k.Room)), `{"sessions":{`...)
		}
		if w.any {
			w.buf = append(w.buf, ',')
		}
		w.any = true
		raw, err := json.Marshal(describeBackupKey(k))
		if err != nil {
			return err
		}
		w.buf = append(appendName(w.buf, k.Session), raw...)
	}
	return w.flush()
}

func (w *backupWriter) end() error {
	w.buf = append(w.buf, `}}`...)
	if w.all && w.room != "" {
		w.buf = append(w.buf, `}}`...)
	}
	return w.flush()
}

// appendName adds the name of a member.
func appendName(buf []byte, name string) []byte {
	raw, err := json.Marshal(name)
	if err != nil { // never: a string can be encoded
		raw = []byte(`""`)
	}
	return append(append(buf, raw...), ':')
}

func describeBackupKey(k store.BackupKey) backupKey {
	return backupKey{k.FirstMessageIndex, k.ForwardedCount, k.IsVerified, k.SessionData}
}

func (a *API) deleteBackupKeys(c *call) (any, error) {
	sel, err := c.backupSelection()
	if err != nil {
		return nil, err
	}
	state, err := a.Keys.DeleteBackupKeys(c.Request().Context(), c.Requester.User, sel)
	return describeBackup(state), err
}
