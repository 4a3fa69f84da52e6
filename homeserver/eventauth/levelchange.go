package eventauth

import (
	"errors"

	"github.com/securecomm/securecomm/homeserver/event"
)

// authorizeLevels is the rule for m.room.power_levels; level is the sender's.
func (c *Context) authorizeLevels(e *event.Event, level int64) error {
	levels, err := ParsePowerLevels(e.Version, e.Content)
	if err != nil {
		return refuseMalformed(e.Version, err)
	}
	for _, creator := range c.create.privileged {
		if _, ok := levels.users[string(creator)]; ok {
			n := numbersOf(e.Version)
			return refuseContent("a creator is given a power level", n.powerLevels, n.creators)
		}
	}
	if !c.hasLevels {
		return nil
	}
	return checkChange(e, c.levels, levels, level)
}

func refuseMalformed(v *event.Version, err error) error {
	n := numbersOf(v)
	rule := n.users
	// Before version 10 the one rule about the shape of levels is that about users.
	if v.IntegerPowerLevels && errors.Is(err, errNamed) {
		rule = n.named
	} else if v.IntegerPowerLevels && errors.Is(err, errMaps) {
		rule = n.maps
	}
	return refuseContent(err.Error(), n.powerLevels, rule)
}

// checkChange compares old and new levels. Nobody may touch a level above their own, nor set one above
// their own, nor change another user of their own level.
func checkChange(e *event.Event, old, levels *PowerLevels, level int64) error {
	n := func() ruleNumbers { return numbersOf(e.Version) }
	for i := range namedCount {
		if old.present[i] == levels.present[i] && old.levels[i] == levels.levels[i] {
			continue
		}
		if old.present[i] && old.levels[i] > level {
			return refuse("the old "+namedKeys[i]+" is above the sender's level", n().powerLevels, n().namedChange, 1)
		}
		if levels.present[i] && levels.levels[i] > level {
			return refuse("the new "+namedKeys[i]+" is above the sender's level", n().powerLevels, n().namedChange, 2)
		}
	}
	notificationsOld, notificationsNew := old.notifications, levels.notifications
	if !e.Version.NotificationsAuth {
		notificationsOld, notificationsNew = nil, nil
	}
	if touches(old.events, levels.events, level, "") || touches(notificationsOld, notificationsNew, level, "") {
		return refuse("the old level of a type of event is above the sender's", n().powerLevels, n().entryOld, 1)
	}
	if sets(old.events, levels.events, level) || sets(notificationsOld, notificationsNew, level) {
		return refuse("the new level of a type of event is above the sender's", n().powerLevels, n().entryNew, 1)
	}
	// Levels are integers, so "at or above" is "above one less".
	if touches(old.users, levels.users, level-1, string(e.Sender)) {
		return refuse("the old level of a user is not below the sender's", n().powerLevels, n().userOld, 1)
	}
	if sets(old.users, levels.users, level) {
		return refuse("the new level of a user is above the sender's", n().powerLevels, n().userNew, 1)
	}
	return nil
}

// touches reports whether an entry that was above a level, other than the excepted one, is changed or removed.
func touches(old, levels map[string]int64, above int64, except string) bool {
	for key, before := range old {
		if before <= above || (key == except && except != "") {
			continue
		}
		if after, ok := levels[key]; !ok || after != before {
			return true
		}
	}
	return false
}

// sets reports whether an entry is added or changed to above a level.
func sets(old, levels map[string]int64, above int64) bool {
	for key, after := range levels {
		if after <= above {
			continue
		}
		if before, ok := old[key]; !ok || after != before {
			return true
		}
	}
	return false
}
