package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// SyncRequest is what to ask of /sync.
type SyncRequest struct {
	Since   string
	Filter  json.RawMessage // inline; nil for everything
	Timeout time.Duration   // how long the server may wait for news
	Full    bool            // full state, not only what changed
}

// SyncAnswer is what happened since a position.
type SyncAnswer struct {
	Next        string `json:"next_batch"`
	AccountData struct {
		Events Events `json:"events"`
	} `json:"account_data"`
	ToDevice struct {
		Events []json.RawMessage `json:"events"`
	} `json:"to_device"`
	DeviceLists struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys map[string]int `json:"device_one_time_keys_count"`
	// UnusedFallback is nil if the server said nothing, empty if no fallback key is left unused.
	UnusedFallback []string `json:"device_unused_fallback_key_types"`
	Rooms          struct {
		Join   map[id.RoomID]JoinedRoom  `json:"join"`
		Invite map[id.RoomID]InvitedRoom `json:"invite"`
		Leave  map[id.RoomID]JoinedRoom  `json:"leave"`
	} `json:"rooms"`
}

// JoinedRoom is what happened in one room.
type JoinedRoom struct {
	State struct {
		Events Events `json:"events"`
	} `json:"state"`
	Timeline struct {
		Events  Events `json:"events"`
		Limited bool   `json:"limited"`
		Prev    string `json:"prev_batch"`
	} `json:"timeline"`
	Ephemeral struct {
		Events Events `json:"events"`
	} `json:"ephemeral"`
	Summary struct {
		Heroes  []id.UserID `json:"m.heroes"`
		Joined  int         `json:"m.joined_member_count"`
		Invited int         `json:"m.invited_member_count"`
	} `json:"summary"`
}

// InvitedRoom is what an invited user may see of a room.
type InvitedRoom struct {
	State struct {
		Events Events `json:"events"`
	} `json:"invite_state"`
}

// Sync asks once for what happened since a position.
func (c *Client) Sync(ctx context.Context, req SyncRequest) (*SyncAnswer, error) {
	query := url.Values{"timeout": {strconv.FormatInt(req.Timeout.Milliseconds(), 10)}}
	if req.Since != "" {
		query.Set("since", req.Since)
	}
	if req.Filter != nil {
		query.Set("filter", string(req.Filter))
	}
	if req.Full {
		query.Set("full_state", "true")
	}
	out := &SyncAnswer{}
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/sync", query: query,
		limit: maxSyncAnswer, timeout: req.Timeout + requestTimeout}, out)
	if err != nil {
		return nil, err
	}
	if out.Next == "" {
		return nil, errors.New("the answer to /sync has no next_batch")
	}
	return out, nil
}

// The pauses between attempts while the server can't be reached.
const (
	firstOutagePause = time.Second
	lastOutagePause  = 30 * time.Second
)

// Follow syncs until the context ends or handle fails, and answers that error. handle has to have made
// everything durable that it needs of an answer when it returns: the next request tells the server to forget
// it. Outages are waited out with growing pauses and reported to outage, which may be nil.
func (c *Client) Follow(ctx context.Context, req SyncRequest, handle func(*SyncAnswer) error, outage func(error)) error {
	pause := firstOutagePause
	for {
		answer, err := c.Sync(ctx, req)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !Temporary(err):
			return err
		case err != nil:
			if outage != nil {
				outage(err)
			}
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			pause = min(pause*2, lastOutagePause)
		default:
			pause = firstOutagePause
			if err := handle(answer); err != nil {
				return err
			}
			req.Since, req.Full = answer.Next, false
		}
	}
}

// Temporary tells failures that may pass from refusals that will not.
func Temporary(err error) bool {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Status >= 500 || refused.Status == http.StatusTooManyRequests
	}
	return Unreachable(err)
}
