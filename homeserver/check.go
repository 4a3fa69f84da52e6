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
// authorities, and the database. It changes nothing. soon is what is right today and has to be seen to.
func Check(ctx context.Context, c *config.Config) (soon []string, err error) {
	var errs []error
	if c.TLS.Mode == config.TLSFiles {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err == nil {
			ends := pair.Leaf.NotAfter
			if left := time.Until(ends); left < 0 {
				err = fmt.Errorf("the certificate has ended on %s", ends.Format(time.DateOnly))
			} else if left < certificateSoon {
				soon = append(soon, "the certificate of tls.cert ends soon, on "+ends.Format(time.DateOnly))
			}
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
	return soon, errors.Join(errs...)
}
