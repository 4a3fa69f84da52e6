package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/securecomm/securecomm/homeserver/id"
)

// The calls of this file carry bodies that only the encryption understands; they pass through as they are.

// UploadKeys uploads device keys, one-time keys and fallback keys.
func (c *Client) UploadKeys(ctx context.Context, body any) (json.RawMessage, error) {
	return c.keys(ctx, "/_matrix/client/v3/keys/upload", body)
}

// QueryKeys asks for the devices and identities of users.
func (c *Client) QueryKeys(ctx context.Context, body any) (json.RawMessage, error) {
	return c.keys(ctx, "/_matrix/client/v3/keys/query", body)
}

// ClaimKeys takes one one-time key for each device that the body names.
func (c *Client) ClaimKeys(ctx context.Context, body any) (json.RawMessage, error) {
	return c.keys(ctx, "/_matrix/client/v3/keys/claim", body)
}

// UploadSignatures uploads signatures of devices and identities.
func (c *Client) UploadSignatures(ctx context.Context, body any) (json.RawMessage, error) {
	return c.keys(ctx, "/_matrix/client/v3/keys/signatures/upload", body)
}

// UploadCrossSigning uploads the user's own cross-signing keys, which the password may have to confirm.
func (c *Client) UploadCrossSigning(ctx context.Context, body any, user id.UserID, password func() (string, error)) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the keys: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return fmt.Errorf("encoding the keys: %w", err)
	}
	return c.withPassword(user, password, func(auth map[string]any) error {
		if auth != nil {
			fields["auth"] = auth
		}
		return c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/keys/device_signing/upload", body: fields}, nil)
	})
}

func (c *Client) keys(ctx context.Context, at string, body any) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.do(ctx, call{method: http.MethodPost, path: at, body: body}, &out)
	return out, err
}

// SendToDevice sends messages to devices. The same transaction identifier never sends twice.
func (c *Client) SendToDevice(ctx context.Context, kind, txn string, body any) error {
	return c.do(ctx, call{method: http.MethodPut, path: path("/_matrix/client/v3/sendToDevice/%s/%s", kind, txn), body: body}, nil)
}

// BackupVersion describes a key backup on the server.
type BackupVersion struct {
	Version   string          `json:"version,omitempty"`
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count,omitempty"`
}

// Backup reads the current backup; ok is false if there is none.
func (c *Client) Backup(ctx context.Context) (backup BackupVersion, ok bool, err error) {
	err = c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/room_keys/version"}, &backup)
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return BackupVersion{}, false, nil
	}
	return backup, err == nil, err
}

// CreateBackup creates a backup and answers its version. It replaces the one before as the current one.
func (c *Client) CreateBackup(ctx context.Context, algorithm string, authData any) (string, error) {
	var out struct {
		Version string `json:"version"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/room_keys/version",
		body: map[string]any{"algorithm": algorithm, "auth_data": authData}}, &out)
	return out.Version, err
}

// DeleteBackup deletes a backup with all keys in it.
func (c *Client) DeleteBackup(ctx context.Context, version string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: path("/_matrix/client/v3/room_keys/version/%s", version)}, nil)
}

// PutBackupKeys adds encrypted sessions to a backup.
func (c *Client) PutBackupKeys(ctx context.Context, version string, body any) error {
	return c.do(ctx, call{method: http.MethodPut, path: "/_matrix/client/v3/room_keys/keys",
		query: url.Values{"version": {version}}, body: body}, nil)
}

// BackupKeys reads all encrypted sessions of a backup.
func (c *Client) BackupKeys(ctx context.Context, version string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/room_keys/keys",
		query: url.Values{"version": {version}}, limit: maxSyncAnswer}, &out)
	return out, err
}
