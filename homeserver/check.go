package homeserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Check looks at what a configuration names, besides the configuration itself: the files of TLS, those of certificate
// authorities, and the database. It changes nothing.
func Check(ctx context.Context, c *config.Config) error {
	var errs []error
	if c.TLS.Mode == config.TLSFiles {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err == nil && time.Now().After(pair.Leaf.NotAfter) {
			err = fmt.Errorf("the certificate has ended on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tls.cert and tls.key: %w", err))
		}
	}
	if _, err := c.Federation.RootCAs(); err != nil {
		errs = append(errs, fmt.Errorf("federation.ca_files: %w", err))
	}
	if err := store.Check(ctx, strings.TrimPrefix(c.DatabaseURL(), "sqlite://")); err != nil {
		errs = append(errs, fmt.Errorf("database.url: %w", err))
	}
	return errors.Join(errs...)
}
