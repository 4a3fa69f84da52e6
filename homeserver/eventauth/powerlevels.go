package eventauth

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// CreatorLevel is the level of the creators of rooms of version 12 and later, above every other.
const CreatorLevel int64 = math.MaxInt64

// highest is where levels that older room versions write as strings or floats are cut off; it is beyond
// everything that JSON integers may say.
const highest = 1 << 62

// named are the members of an m.room.power_levels that hold one level each.
type named int

const (
	usersDefault named = iota
	eventsDefault
	stateDefault
	banLevel
	redactLevel
	kickLevel
	inviteLevel
	namedCount
)

var namedKeys = [namedCount]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

// PowerLevels is the parsed content of an m.room.power_levels, with defaults filled in. It must not be
// written to. It does not know of the room's creators; Context.UserLevel does.
type PowerLevels struct {
	levels        [namedCount]int64
	present       [namedCount]bool
	users         map[string]int64
	events        map[string]int64
	notifications map[string]int64
}

// Errors of ParsePowerLevels, by the rule that they break.
var (
	errNamed = errors.New("a level is not an integer")
	errMaps  = errors.New("events or notifications are not objects of integers")
	errUsers = errors.New("users are not an object of user IDs with integers")
)

// defaultLevels hold where a room has no m.room.power_levels.
func defaultLevels() *PowerLevels {
	p := &PowerLevels{}
	for _, n := range []named{stateDefault, banLevel, redactLevel, kickLevel} {
		p.levels[n] = 50
	}
	return p
}

// ParsePowerLevels reads the content of an m.room.power_levels by the grammar of a room version. The
// levels are usable even if there is an error, which says that such an event is not allowed: what is
// malformed counts as absent then.
func ParsePowerLevels(v *event.Version, content json.RawMessage) (*PowerLevels, error) {
	p := defaultLevels()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(content, &members); err != nil {
		return p, errNamed
	}
	var problem error
	note := func(err error) {
		if problem == nil {
			problem = err
		}
	}
	for i, key := range namedKeys {
		raw, ok := members[key]
		if !ok {
			continue
		}
		level, ok := parseLevel(v, raw)
		if !ok {
			note(errNamed)
			continue
		}
		p.levels[i], p.present[i] = level, true
	}
	var ok bool
	if p.events, ok = parseLevels(v, members["events"]); !ok {
		note(errMaps)
	}
	if p.notifications, ok = parseLevels(v, members["notifications"]); !ok {
		note(errMaps)
	}
	if p.users, ok = parseLevels(v, members["users"]); !ok {
		note(errUsers)
	}
	for user := range p.users {
		if _, err := id.ParseUserID(user); err != nil {
			note(errUsers)
		}
	}
	return p, problem
}

// parseLevels reads an object of levels; what is absent is empty.
func parseLevels(v *event.Version, raw json.RawMessage) (map[string]int64, bool) {
	if raw == nil {
		return nil, true
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil || entries == nil {
		return nil, false
	}
	levels, ok := make(map[string]int64, len(entries)), true
	for key, value := range entries {
		level, fine := parseLevel(v, value)
		if !fine {
			ok = false
			continue
		}
		levels[key] = level
	}
	return levels, ok
}

// parseLevel reads an integer and, where the room version allows it, one in a string or a float
// ("Deprecated event content schemas" of the room versions).
func parseLevel(v *event.Version, raw json.RawMessage) (int64, bool) {
	s := string(raw)
	if strings.HasPrefix(s, `"`) {
		if v.IntegerPowerLevels || json.Unmarshal(raw, &s) != nil {
			return 0, false
		}
		s = strings.TrimSpace(s)
	} else if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if v.StrictJSON || err != nil {
			return 0, false
		}
		return int64(max(-highest, min(highest, math.Trunc(f)))), true
	}
	level, err := strconv.ParseInt(s, 10, 64)
	if err != nil && (v.IntegerPowerLevels || !errors.Is(err, strconv.ErrRange)) {
		return 0, false
	}
	return max(-highest, min(highest, level)), true
}

// Event is the level needed to send an event of a type.
func (p *PowerLevels) Event(typ string, state bool) int64 {
	if level, ok := p.events[typ]; ok {
		return level
	}
	if state {
		return p.levels[stateDefault]
	}
	return p.levels[eventsDefault]
}

// UserLevel is the power level of a user, creators included.
func (c *Context) UserLevel(user id.UserID) int64 {
	if c.create != nil {
		if len(c.create.privileged) > 0 && slices.Contains(c.create.privileged, user) {
			return CreatorLevel
		}
		if !c.hasLevels && user == c.create.creator {
			return 100
		}
	}
	return c.levels.User(user)
}

// User is the level of a user who is not a creator.
func (p *PowerLevels) User(user id.UserID) int64 {
	if level, ok := p.users[string(user)]; ok {
		return level
	}
	return p.levels[usersDefault]
}

// Notification is the level needed to notify by a key such as "room".
func (p *PowerLevels) Notification(key string) int64 {
	if level, ok := p.notifications[key]; ok {
		return level
	}
	return 50
}

// Ban is the level needed to ban.
func (p *PowerLevels) Ban() int64 { return p.levels[banLevel] }

// Kick is the level needed to remove a user.
func (p *PowerLevels) Kick() int64 { return p.levels[kickLevel] }

// Invite is the level needed to invite.
func (p *PowerLevels) Invite() int64 { return p.levels[inviteLevel] }

// Redact is the level needed to redact the events of users of other servers.
func (p *PowerLevels) Redact() int64 { return p.levels[redactLevel] }
