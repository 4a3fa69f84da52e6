package cli

import (
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

func (a *app) invite() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "invite ROOM USER...",
		Short:   "Invite users into a room",
		Example: "  securecomm invite '!abc:one.example' @bob:two.example",
		Args:    argCount(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.room(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				for _, arg := range args[1:] {
					user, err := id.ParseUserID(arg)
					if err != nil {
						return err
					}
					if err := s.client.Invite(cmd.Context(), room, user, reason); err != nil {
						return err
					}
					if err := a.answer(map[string]any{"room_id": room, "invited": user}, "Invited %s.", user); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "words that go with the invitation; the servers can read them")
	return cmd
}

func (a *app) join() *cobra.Command {
	var via []string
	cmd := &cobra.Command{
		Use:     "join ROOM",
		Short:   "Join a room, or accept an invitation",
		Example: "  securecomm join '#lobby:one.example'\n  securecomm join '!abc' --via one.example",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			servers, err := viaServers(args[0], via)
			if err != nil {
				return err
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				if len(servers) == 0 {
					servers = s.inviters(cmd.Context(), args[0])
				}
				room, err := s.client.Join(cmd.Context(), args[0], servers)
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"room_id": room}, "%s", room)
			})
		},
	}
	cmd.Flags().StringArrayVar(&via, "via", nil, "server that is in the room; may be repeated")
	return cmd
}

// viaServers are the servers to join by: those named, else the one in the room's ID.
func viaServers(room string, named []string) ([]id.ServerName, error) {
	var servers []id.ServerName
	for _, arg := range named {
		server, err := id.ParseServerName(arg)
		if err != nil {
			return nil, err
		}
		servers = append(servers, server)
	}
	if strings.HasPrefix(room, "#") {
		_, err := id.ParseRoomAlias(room)
		return servers, err
	}
	parsed, err := id.ParseRoomID(room)
	if err == nil && len(servers) == 0 && parsed.Server() != "" {
		servers = append(servers, parsed.Server())
	}
	return servers, err
}

func (a *app) leave() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "leave ROOM",
		Short:   "Leave a room, or decline an invitation",
		Example: "  securecomm leave '!abc:one.example'",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.room(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := s.client.Leave(cmd.Context(), room, reason); err != nil {
					return err
				}
				return a.answer(map[string]any{"room_id": room, "left": true}, "Left %s.", room)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "words that go with it; the servers can read them")
	return cmd
}

// memberView is one member of a room.
type memberView struct {
	User       id.UserID `json:"user_id"`
	Name       string    `json:"name,omitempty"`
	Membership string    `json:"membership"`
	Trust      string    `json:"identity"`
}

func (a *app) members() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "members ROOM",
		Short: "List who is in a room and whose identity you have verified",
		Long: "Lists the members of a room and what is known of their identity: verified (you compared\n" +
			"it), unverified, changed (it is another one than before: be careful), none (no identity).",
		Example: "  securecomm members '!abc:one.example'\n  securecomm members '#lobby:one.example' --all --json",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.room(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				views, err := s.memberViews(cmd.Context(), room, all)
				if err != nil {
					return err
				}
				if a.json {
					return a.document(views)
				}
				return a.showMembers(views)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those who left or are banned")
	return cmd
}

func (a *app) showMembers(views []memberView) error {
	for _, v := range views {
		line := compose("%s  [%s]  %s", v.User, v.Trust, word(v.Membership))
		if v.Name != "" {
			line += compose("  %s", quoted(v.Name))
		}
		if err := a.say("%s", line); err != nil {
			return err
		}
	}
	return nil
}
