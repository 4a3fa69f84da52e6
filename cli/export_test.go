package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// RunOther does what clients of others can and this one can't: "event ROOM TYPE CONTENT" sends any content, encrypted if
// the room is, "plain ROOM TYPE CONTENT" in plaintext; both write the event's ID. "redact ROOM EVENT" redacts.
func RunOther(ctx context.Context, args []string, stdio Stdio) int {
	a := newApp(stdio)
	root := &cobra.Command{Use: "other"}
	a.clientFlags(root.PersistentFlags())
	add := func(use string, do func(s *session, room id.RoomID, args []string) error) {
		root.AddCommand(&cobra.Command{Use: use, RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				room, err := s.roomNow(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return do(s, room, args[1:])
			})
		}})
	}
	add("event", func(s *session, room id.RoomID, args []string) error {
		m, err := s.send(ctx, room, args[0], client.NewTxnID(), json.RawMessage(args[1]), sendOptions{})
		if err != nil {
			return err
		}
		return a.say("%s", m.ID)
	})
	add("plain", func(s *session, room id.RoomID, args []string) error {
		event, err := s.client.Send(ctx, room, args[0], client.NewTxnID(), json.RawMessage(args[1]))
		if err != nil {
			return err
		}
		return a.say("%s", event)
	})
	add("redact", func(s *session, room id.RoomID, args []string) error {
		at := fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/redact/%s/%s", s.me.Base, url.PathEscape(string(room)), url.PathEscape(args[0]), client.NewTxnID())
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, at, http.NoBody)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+s.me.Token)
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("the server answered %s", answer.Status)
		}
		return nil
	})
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return exitFailure
	}
	return exitOK
}
