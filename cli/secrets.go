package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee/secretstorage"
)

// secrets is the user's secret storage on the server, opened by its key.
type secrets struct {
	s   *session
	id  string
	key secretstorage.Key
}

// newSecrets makes a secret storage. It becomes the user's default only by makeDefault, when all is in it.
func (s *session) newSecrets(ctx context.Context) (*secrets, error) {
	key, description, err := secretstorage.NewKey()
	if err != nil {
		return nil, err
	}
	opened := &secrets{s: s, id: rand.Text(), key: key}
	return opened, s.client.SetAccountData(ctx, s.me.User, secretstorage.KeyPrefix+opened.id, description)
}

type defaultKey struct {
	Key string `json:"key"`
}

func (o *secrets) makeDefault(ctx context.Context) error {
	return o.s.client.SetAccountData(ctx, o.s.me.User, secretstorage.DefaultKey, defaultKey{o.id})
}

// openSecrets opens the user's secret storage by what the user entered; nil if the user has none.
func (s *session) openSecrets(ctx context.Context, entered string) (*secrets, error) {
	var which defaultKey
	if err := s.client.AccountData(ctx, s.me.User, secretstorage.DefaultKey, &which); absent(err) || err == nil && which.Key == "" {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var description secretstorage.Description
	if err := s.client.AccountData(ctx, s.me.User, secretstorage.KeyPrefix+which.Key, &description); err != nil {
		return nil, err
	}
	key, err := description.Open(entered)
	if err != nil {
		return nil, fail(exitFailure, "check the recovery key; it is the one shown when the backup was made", "%w", err)
	}
	return &secrets{s: s, id: which.Key, key: key}, nil
}

// storedSecret is the content of a secret's account data: one encrypted form for each key of a storage.
type storedSecret struct {
	Encrypted map[string]json.RawMessage `json:"encrypted"`
}

// put stores a secret. What other keys could open of it is gone: it may be an older secret.
func (o *secrets) put(ctx context.Context, name, secret string) error {
	sealed, err := o.key.Encrypt(name, []byte(secret))
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(sealed)
	if err != nil {
		return err
	}
	return o.s.client.SetAccountData(ctx, o.s.me.User, name, storedSecret{Encrypted: map[string]json.RawMessage{o.id: encoded}})
}

// get reads a secret; it is empty if it is not in the storage.
func (o *secrets) get(ctx context.Context, name string) (string, error) {
	var stored storedSecret
	if err := o.s.client.AccountData(ctx, o.s.me.User, name, &stored); absent(err) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	encoded, ok := stored.Encrypted[o.id]
	if !ok {
		return "", nil
	}
	var sealed secretstorage.Secret
	if err := json.Unmarshal(encoded, &sealed); err != nil {
		return "", secretstorage.ErrMalformed
	}
	secret, err := o.key.Decrypt(name, sealed)
	return string(secret), err
}

func absent(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Status == http.StatusNotFound
}
