package event

import (
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

// Template is an event without hashes and signatures, and in versions 1 and 2 without an ID, for another
// server to complete: the answer to make_join, make_leave and make_knock.
func (v *Version) Template(p Proto) ([]byte, error) {
	d, err := v.draft(p, "")
	if err != nil {
		return nil, err
	}
	return d.buf, nil
}

// ParseTemplate reads what another server answered to make_join, make_leave or make_knock. The caller checks
// each field, above all type, state key, sender and room, before it builds and signs an event of it.
func ParseTemplate(v *Version, raw []byte) (Proto, error) {
	canonical, err := v.canonicalize(raw)
	if err != nil {
		return Proto{}, err
	}
	// The names in it are given anew when the event is built.
	canonical = canonicaljson.Without(canonical, "event_id", "hashes", "signatures")
	r := reader{ev: &Event{Version: v, JSON: canonical}}
	if err := r.read(); err != nil {
		return Proto{}, err
	}
	e := r.ev
	if e.Content == nil || e.Type == "" || e.Sender == "" || e.RoomID == "" {
		return Proto{}, malformed("a template needs type, sender, room_id and content")
	}
	return Proto{
		Type: e.Type, StateKey: e.StateKey, Sender: e.Sender, RoomID: e.RoomID, Content: e.Content,
		PrevEvents: e.PrevEvents, AuthEvents: e.AuthEvents, Depth: e.Depth, OriginServerTS: e.OriginServerTS,
		Redacts: e.Redacts, Hashes: r.hashes,
	}, nil
}
