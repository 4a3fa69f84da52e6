package event

import "github.com/securecomm/securecomm/homeserver/canonicaljson"

// HistoryVisibility is the setting in the content of an m.room.history_visibility, which is in canonical form:
// "world_readable", "shared", "invited" or "joined", and "shared" for whatever is none of them (Client-Server API, "Room
// History Visibility").
func HistoryVisibility(content []byte) string {
	setting, _ := canonicaljson.String(canonicaljson.Get(content, "history_visibility"))
	switch setting {
	case "world_readable", "invited", "joined":
		return setting
	default:
		return "shared"
	}
}
