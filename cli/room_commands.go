package cli

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// roomView is one room as the commands show it.
type roomView struct {
	ID         id.RoomID    `json:"room_id"`
	Name       string       `json:"name,omitempty"`
	Alias      id.RoomAlias `json:"alias,omitempty"`
	Membership string       `json:"membership"`
	Encrypted  bool         `json:"encrypted"`
	InvitedBy  id.UserID    `json:"invited_by,omitempty"`
}

func (a *app) rooms() *cobra.Command {
	return &cobra.Command{
		Use:     "rooms",
		Short:   "List your rooms and invitations",
		Long:    "Lists the rooms you are in and those you are invited to.\n\nAn invitation is accepted with \"securecomm join\" and declined with \"securecomm leave\".",
		Example: "  securecomm rooms\n  securecomm rooms --json",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				answer, err := s.client.Sync(cmd.Context(), client.SyncRequest{Filter: overviewFilter})
				if err != nil {
					return err
				}
				views := roomViews(answer, s.me.User)
				if a.json {
					return a.document(views)
				}
				for _, v := range views {
					if err := a.say("%s", v.line()); err != nil {
						return err
					}
				}
				if len(views) == 0 {
					a.note("You are in no room yet: see \"securecomm create --help\".")
				}
				return nil
			})
		},
	}
}

// overviewFilter asks for what describes rooms, and for none of their messages.
var overviewFilter = json.RawMessage(`{"presence":{"types":[]},"account_data":{"types":[]},"room":{"ephemeral":{"types":[]},` +
	`"account_data":{"types":[]},"timeline":{"limit":1},` +
	`"state":{"types":["m.room.name","m.room.canonical_alias","m.room.encryption"],"lazy_load_members":true}}}`)

func roomViews(answer *client.SyncAnswer, me id.UserID) []roomView {
	views := []roomView{}
	for room, joined := range answer.Rooms.Join {
		v := roomView{ID: room, Membership: "join"}
		for _, e := range slices.Concat(joined.State.Events, joined.Timeline.Events) {
			v.describe(e, me)
		}
		views = append(views, v)
	}
	for room, invited := range answer.Rooms.Invite {
		v := roomView{ID: room, Membership: "invite"}
		for _, e := range invited.State.Events {
			v.describe(e, me)
		}
		views = append(views, v)
	}
	slices.SortFunc(views, func(x, y roomView) int {
		return cmp.Or(cmp.Compare(x.Membership, y.Membership), cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
	})
	return views
}

func (v *roomView) describe(e client.Event, me id.UserID) {
	if e.StateKey == nil {
		return
	}
	var content struct {
		Name       string       `json:"name"`
		Alias      id.RoomAlias `json:"alias"`
		Membership string       `json:"membership"`
	}
	if json.Unmarshal(e.Content, &content) != nil {
		return
	}
	switch e.Type {
	case "m.room.name":
		v.Name = content.Name
	case "m.room.canonical_alias":
		v.Alias = content.Alias
	case "m.room.encryption":
		v.Encrypted = true
	case "m.room.member":
		if *e.StateKey == string(me) && content.Membership == "invite" {
			v.InvitedBy = e.Sender
		}
	}
}

func (v roomView) line() text {
	line := compose("%s", v.ID)
	if v.Encrypted {
		line += "  [encrypted]"
	} else if v.Membership == "join" {
		line += "  [not encrypted]"
	}
	if v.Membership == "invite" {
		line += compose("  (invited by %s)", cmp.Or(v.InvitedBy, "someone"))
	}
	if v.Alias != "" {
		line += compose("  %s", v.Alias)
	}
	if v.Name != "" {
		line += compose("  %s", quoted(v.Name))
	}
	return line
}

func (a *app) create() *cobra.Command {
	var room client.NewRoom
	var invite []string
	var public, plain bool
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create a room, encrypted unless you say otherwise",
		Long: "Creates a room and prints its ID. The room is end-to-end encrypted and private;\n" +
			"--public lists it and lets everyone join, --plain leaves the encryption out. A room\nthat is encrypted stays so.",
		Example: "  securecomm create Plans --invite @bob:two.example\n  securecomm create Lobby --public --plain --alias lobby",
		Args:    argCount(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				room.Name = args[0]
			}
			for _, arg := range invite {
				user, err := id.ParseUserID(arg)
				if err != nil {
					return err
				}
				room.Invite = append(room.Invite, user)
			}
			room.Preset, room.Visibility = "private_chat", "private"
			if public {
				room.Preset, room.Visibility = "public_chat", "public"
			}
			if !plain {
				room.InitialState = append(room.InitialState, client.StateEvent{Type: "m.room.encryption",
					Content: map[string]string{"algorithm": megolm}})
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				made, err := s.client.CreateRoom(cmd.Context(), room)
				if err != nil {
					return err
				}
				if !plain {
					if err := s.pin(made, roomFacts{Encrypted: true, Algorithm: megolm}); err != nil {
						return err
					}
				}
				return a.answer(map[string]any{"room_id": made, "encrypted": !plain}, "%s", made)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&invite, "invite", nil, "user to invite; may be repeated")
	flags.StringVar(&room.Topic, "topic", "", "what the room is about")
	flags.StringVar(&room.AliasName, "alias", "", "name in the server's directory, without # and server")
	flags.StringVar(&room.Version, "room-version", "", "room version (default: the server's choice)")
	flags.BoolVar(&room.Direct, "direct", false, "mark it as a conversation of two")
	flags.BoolVar(&public, "public", false, "list the room and let everyone join")
	flags.BoolVar(&plain, "plain", false, "do not encrypt the room")
	return cmd
}
