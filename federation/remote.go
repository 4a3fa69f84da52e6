package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Remote asks other servers on behalf of the domain packages: it is their room.Remote, keys.Remote and so on.
// Fill the fields before use.
type Remote struct {
	Client  *client.Client
	Keyring *keyring.Keyring
	// Allows says which servers may be asked; nil allows all.
	Allows func(id.ServerName) bool
	// Settle waits until what was written for a server before is delivered; nil does not wait.
	Settle func(context.Context, id.ServerName)
}

var errNotAllowed = errors.New("this server does not federate with it")

// allow refuses servers that are not to be spoken to.
func (r *Remote) allow(server id.ServerName) error {
	if r.Allows != nil && !r.Allows(server) {
		return fmt.Errorf("%w: %s: %w", room.ErrUnreachable, server, errNotAllowed)
	}
	return nil
}

// translate turns another server's refusal into the error of the room engine that it means. Faults of ours stay what they
// are. What is left is a server that cannot be reached.
func translate(err error) error {
	var answer *client.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, load.ErrBusy), errors.Is(err, context.Canceled), errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		return err
	case !errors.As(err, &answer):
		return fmt.Errorf("%w: %w", room.ErrUnreachable, err)
	case answer.Code == "M_INCOMPATIBLE_ROOM_VERSION":
		return fmt.Errorf("%w: %w", &room.IncompatibleVersion{Version: answer.RoomVersion}, err)
	case answer.Code == "M_UNABLE_TO_AUTHORISE_JOIN":
		return fmt.Errorf("%w: %w", room.ErrCannotAuthorize, err)
	case answer.Code == "M_UNABLE_TO_GRANT_JOIN":
		return fmt.Errorf("%w: %w", room.ErrCannotGrant, err)
	case answer.Status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", room.ErrForbidden, err)
	case answer.Status == http.StatusNotFound && answer.Code == "M_NOT_FOUND":
		return fmt.Errorf("%w: %w", room.ErrNotFound, err)
	default:
		return fmt.Errorf("%w: %w", room.ErrUnreachable, err)
	}
}

// ask makes one call of another server.
func ask[T any](r *Remote, server id.ServerName, call func() (T, error)) (T, error) {
	if err := r.allow(server); err != nil {
		var none T
		return none, err
	}
	answer, err := call()
	return answer, translate(err)
}

// MakeMembership asks for the template of a "join", "leave" or "knock".
func (r *Remote) MakeMembership(ctx context.Context, server id.ServerName, membership string, roomID id.RoomID, user id.UserID) (id.RoomVersion, json.RawMessage, error) {
	t, err := ask(r, server, func() (client.Template, error) {
		switch membership {
		case "join":
			return r.Client.MakeJoin(ctx, server, roomID, user, event.Versions())
		case "knock":
			return r.Client.MakeKnock(ctx, server, roomID, user, event.Versions())
		default:
			return r.Client.MakeLeave(ctx, server, roomID, user)
		}
	})
	return t.RoomVersion, t.Event, err
}

// SendJoin hands in a join. The whole state is asked for.
func (r *Remote) SendJoin(ctx context.Context, server id.ServerName, join *event.Event) (*room.Joined, error) {
	answer, err := ask(r, server, func() (client.JoinResult, error) {
		return r.Client.SendJoin(ctx, server, join.RoomID, join.ID, join.JSON, false)
	})
	if err != nil {
		return nil, err
	}
	return &room.Joined{
		Event: answer.Event, State: answer.State, AuthChain: answer.AuthChain,
		MembersOmitted: answer.MembersOmitted, Servers: answer.ServersInRoom,
	}, nil
}

// SendLeave hands in a leave.
func (r *Remote) SendLeave(ctx context.Context, server id.ServerName, leave *event.Event) error {
	_, err := ask(r, server, func() (struct{}, error) {
		return struct{}{}, r.Client.SendLeave(ctx, server, leave.RoomID, leave.ID, leave.JSON)
	})
	return err
}

// SendKnock hands in a knock and returns stripped state.
func (r *Remote) SendKnock(ctx context.Context, server id.ServerName, knock *event.Event) ([]json.RawMessage, error) {
	return ask(r, server, func() ([]json.RawMessage, error) {
		return r.Client.SendKnock(ctx, server, knock.RoomID, knock.ID, knock.JSON)
	})
}

// Invite has the invited user's server sign an invite. It goes another way than the room's events, and must not
// overtake a kick or a lifted ban that the other server has yet to hear of.
func (r *Remote) Invite(ctx context.Context, server id.ServerName, invite *event.Event, stripped []json.RawMessage) (json.RawMessage, error) {
	if r.Settle != nil {
		r.Settle(ctx, server)
	}
	return ask(r, server, func() (json.RawMessage, error) {
		return r.Client.Invite(ctx, server, invite.RoomID, invite.ID, client.Invite{
			RoomVersion: invite.Version.ID, Event: invite.JSON, RoomState: stripped,
		})
	})
}

// MissingEvents asks for the events between others.
func (r *Remote) MissingEvents(ctx context.Context, server id.ServerName, roomID id.RoomID, earliest, latest []id.EventID, limit int) ([]json.RawMessage, error) {
	return ask(r, server, func() ([]json.RawMessage, error) {
		return r.Client.MissingEvents(ctx, server, roomID, client.MissingEvents{EarliestEvents: earliest, LatestEvents: latest, Limit: limit})
	})
}

// Backfill asks for older events.
func (r *Remote) Backfill(ctx context.Context, server id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	return ask(r, server, func() ([]json.RawMessage, error) { return r.Client.Backfill(ctx, server, roomID, from, limit) })
}

// StateIDs asks for the state before an event by IDs.
func (r *Remote) StateIDs(ctx context.Context, server id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []id.EventID, err error) {
	answer, err := ask(r, server, func() (client.RoomStateIDs, error) { return r.Client.StateIDs(ctx, server, roomID, at) })
	return answer.PDUIDs, answer.AuthChainIDs, err
}

// State asks for the state before an event.
func (r *Remote) State(ctx context.Context, server id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []json.RawMessage, err error) {
	answer, err := ask(r, server, func() (client.RoomState, error) { return r.Client.State(ctx, server, roomID, at) })
	return answer.PDUs, answer.AuthChain, err
}

// EventAuth asks for what authorizes an event.
func (r *Remote) EventAuth(ctx context.Context, server id.ServerName, roomID id.RoomID, at id.EventID) ([]json.RawMessage, error) {
	return ask(r, server, func() ([]json.RawMessage, error) { return r.Client.EventAuth(ctx, server, roomID, at) })
}

// Event asks for one event.
func (r *Remote) Event(ctx context.Context, server id.ServerName, at id.EventID) (json.RawMessage, error) {
	return ask(r, server, func() (json.RawMessage, error) { return r.Client.Event(ctx, server, at) })
}

// Verify checks hashes and signatures of events of which a server told, unless it is empty.
func (r *Remote) Verify(ctx context.Context, witness id.ServerName, events []*event.Event) []room.VerifyResult {
	results := r.Keyring.VerifyEvents(ctx, witness, events)
	out := make([]room.VerifyResult, len(results))
	for i, result := range results {
		out[i] = room.VerifyResult{Verified: result.Verified, Err: result.Err, Lacks: result.Lacks}
	}
	return out
}

// QueryKeys asks for users' keys.
func (r *Remote) QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID) (*keys.Published, error) {
	answer, err := ask(r, server, func() (client.QueriedKeys, error) { return r.Client.KeysQuery(ctx, server, users) })
	if err != nil {
		return nil, err
	}
	return &keys.Published{DeviceKeys: answer.DeviceKeys, MasterKeys: answer.MasterKeys, SelfSigningKeys: answer.SelfSigningKeys}, nil
}

// ClaimKeys claims one-time keys.
func (r *Remote) ClaimKeys(ctx context.Context, server id.ServerName, wants keys.Wants) (keys.Claimed, error) {
	answer, err := ask(r, server, func() (client.ClaimedKeys, error) { return r.Client.KeysClaim(ctx, server, wants) })
	if err != nil {
		return nil, err
	}
	out := keys.Claimed{}
	for user, devices := range answer {
		out[user] = map[id.DeviceID]map[string]json.RawMessage{}
		for device, claimed := range devices {
			names := map[string]json.RawMessage{}
			for keyID, key := range claimed {
				names[string(keyID)] = key
			}
			out[user][device] = names
		}
	}
	return out, nil
}

// UserDevices asks for the list of a user's devices.
func (r *Remote) UserDevices(ctx context.Context, server id.ServerName, user id.UserID) (*keys.UserDevices, error) {
	answer, err := ask(r, server, func() (client.UserDevices, error) { return r.Client.UserDevices(ctx, server, user) })
	if err != nil {
		return nil, err
	}
	out := &keys.UserDevices{UserID: answer.UserID, StreamID: answer.StreamID, MasterKey: answer.MasterKey, SelfSigningKey: answer.SelfSigningKey}
	for _, d := range answer.Devices {
		out.Devices = append(out.Devices, keys.UserDevice{DeviceID: d.DeviceID, Keys: d.Keys, DisplayName: d.DisplayName})
	}
	return out, nil
}

// Profile asks for the profile of a user of another server; only the field named, unless it is empty. It is
// account.Options.RemoteProfile.
func (r *Remote) Profile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	profile, err := ask(r, user.Server(), func() (map[string]json.RawMessage, error) {
		return r.Client.Profile(ctx, user.Server(), user, field)
	})
	if errors.Is(err, room.ErrNotFound) {
		err = fmt.Errorf("%w: %w", account.ErrNotFound, err)
	}
	return profile, err
}

// ResolveAlias asks which room an alias of another server stands for.
func (r *Remote) ResolveAlias(ctx context.Context, alias id.RoomAlias) (directory.Found, error) {
	answer, err := ask(r, alias.Server(), func() (client.Directory, error) { return r.Client.Directory(ctx, alias.Server(), alias) })
	if errors.Is(err, room.ErrNotFound) {
		err = fmt.Errorf("%w: %w", directory.ErrNotFound, err)
	}
	return directory.Found{Room: answer.RoomID, Servers: answer.Servers}, err
}

// PublicRooms asks for a page of another server's public rooms. Entries that are not as they should be are left out.
func (r *Remote) PublicRooms(ctx context.Context, server id.ServerName, q directory.Query) (*directory.Page, error) {
	asked := client.PublicRoomsQuery{Limit: q.Limit, Since: q.Since}
	if q.Search != "" || q.RoomTypes != nil {
		filter, err := json.Marshal(roomFilter{q.Search, q.RoomTypes})
		if err != nil {
			return nil, fmt.Errorf("ask for public rooms: %w", err)
		}
		asked.Filter = filter
	}
	answer, err := ask(r, server, func() (client.PublicRooms, error) { return r.Client.PublicRooms(ctx, server, asked) })
	if err != nil {
		return nil, err
	}
	page := &directory.Page{Chunk: []directory.Entry{}, NextBatch: answer.NextBatch, PrevBatch: answer.PrevBatch}
	for _, raw := range answer.Chunk {
		var entry directory.Entry
		if json.Unmarshal(raw, &entry) != nil {
			continue
		}
		if _, err := id.ParseRoomID(string(entry.RoomID)); err == nil {
			page.Chunk = append(page.Chunk, entry)
		}
	}
	if page.Total = int64(len(page.Chunk)); answer.Total != nil {
		page.Total = *answer.Total
	}
	return page, nil
}

// Hierarchy asks for one level of a space. Children that are not as they should be are left out.
func (r *Remote) Hierarchy(ctx context.Context, server id.ServerName, roomID id.RoomID, suggestedOnly bool) (*directory.Level, error) {
	answer, err := ask(r, server, func() (client.Hierarchy, error) { return r.Client.Hierarchy(ctx, server, roomID, suggestedOnly) })
	if err != nil {
		return nil, err
	}
	level := &directory.Level{Inaccessible: answer.InaccessibleChildren}
	if err := json.Unmarshal(answer.Room, &level.Room); err != nil {
		return nil, fmt.Errorf("%w: the hierarchy of %s at %s: %w", room.ErrBadAnswer, roomID, server, err)
	}
	if level.Room.RoomID != roomID {
		return nil, fmt.Errorf("%w: asked for %s, %s tells of %s", room.ErrBadAnswer, roomID, server, level.Room.RoomID)
	}
	for _, raw := range answer.Children {
		var child directory.Summary
		if json.Unmarshal(raw, &child) != nil {
			continue
		}
		if _, err := id.ParseRoomID(string(child.RoomID)); err == nil {
			level.Children = append(level.Children, child)
		}
	}
	return level, nil
}

// NearestEvent asks for the event closest to a time in milliseconds since 1970, in direction "f" or "b".
func (r *Remote) NearestEvent(ctx context.Context, server id.ServerName, roomID id.RoomID, ts int64, dir string) (found id.EventID, at int64, err error) {
	_, err = ask(r, server, func() (struct{}, error) {
		found, at, err = r.Client.TimestampToEvent(ctx, server, roomID, ts, dir)
		return struct{}{}, err
	})
	return found, at, err
}

// Download fetches media of another server, at most limit bytes.
func (r *Remote) Download(ctx context.Context, server id.ServerName, mediaID string, limit int64) (*media.RemoteFile, error) {
	if err := r.allow(server); err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrRemote, err)
	}
	file, err := r.Client.Download(ctx, server, mediaID, limit)
	if err != nil {
		return nil, mediaError(err)
	}
	return &media.RemoteFile{ContentType: file.ContentType, ContentDisposition: file.ContentDisposition, Body: remoteBody{file.Body}}, nil
}

// mediaError is what an error means to the media package.
func mediaError(err error) error {
	var answer *client.Error
	switch {
	case errors.Is(err, client.ErrTooLarge):
		return fmt.Errorf("%w: %w", media.ErrRemoteTooLarge, err)
	case !errors.As(err, &answer):
		return err
	case answer.Code == "M_NOT_YET_UPLOADED":
		return fmt.Errorf("%w: %w", media.ErrNotYetUploaded, err)
	case answer.Code == "M_TOO_LARGE":
		return fmt.Errorf("%w: %w", media.ErrRemoteTooLarge, err)
	case answer.Status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	return err
}

// remoteBody tells errors in the middle of a download in the words of the media package.
type remoteBody struct{ io.ReadCloser }

// Read reads on.
func (b remoteBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = mediaError(err)
	}
	return n, err
}

// Each is what its consumer asks for.
var (
	_ room.Remote      = (*Remote)(nil)
	_ keys.Remote      = (*Remote)(nil)
	_ directory.Remote = (*Remote)(nil)
	_ media.Remote     = (*Remote)(nil)
)
