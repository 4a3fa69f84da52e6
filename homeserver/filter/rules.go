package filter

import (
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// rules are the lists of an Events, made ready to be asked for many events.
type rules struct {
	types, notTypes     patterns
	senders, notSenders map[id.UserID]bool
}

func newRules(f *Events) *rules {
	return &rules{newPatterns(f.Types), newPatterns(f.NotTypes), set(f.Senders), set(f.NotSenders)}
}

// rooms are those of which anything is wanted, made ready to be asked for many rooms.
type rooms struct {
	all       bool // but the unwanted ones
	wanted    map[id.RoomID]bool
	notWanted map[id.RoomID]bool
}

func newRooms(wanted, not []id.RoomID) *rooms { return &rooms{wanted == nil, set(wanted), set(not)} }

func (r *rooms) allow(room id.RoomID) bool { return (r.all || r.wanted[room]) && !r.notWanted[room] }

func set[T comparable](list []T) map[T]bool {
	if len(list) == 0 {
		return nil
	}
	out := make(map[T]bool, len(list))
	for _, x := range list {
		out[x] = true
	}
	return out
}

// patterns are names of types, plain ones and those with wildcards.
type patterns struct {
	exact map[string]bool
	globs []string
}

func newPatterns(list []string) (p patterns) {
	for _, name := range list {
		if strings.Contains(name, "*") {
			p.globs = append(p.globs, name)
			continue
		}
		if p.exact == nil {
			p.exact = make(map[string]bool, len(list))
		}
		p.exact[name] = true
	}
	return p
}

func (p *patterns) has(typ string) bool {
	if p.exact[typ] {
		return true
	}
	for _, glob := range p.globs {
		if matches(glob, typ) {
			return true
		}
	}
	return false
}

// matches compares a type with a pattern in which each * stands for any text, in linear time: the first place where a part
// of the pattern stands is as good as any.
func matches(pattern, typ string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == typ
	}
	if !strings.HasPrefix(typ, head) {
		return false
	}
	typ = typ[len(head):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(typ, part)
		}
		i := strings.Index(typ, part)
		if i < 0 {
			return false
		}
		typ, rest = typ[i+len(part):], more
	}
}
