package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

const (
	// connectTimeout bounds resolving, dialling and the TLS handshake of one connection.
	connectTimeout = 30 * time.Second
	// handshakeTimeout bounds the TLS handshake with one address.
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 2 * time.Minute
	maxIdle          = 1024
	maxIdlePerServer = 8
	// maxPerServer bounds the connections to one server; further requests to it wait for one.
	maxPerServer   = 64
	maxHeaderBytes = 64 << 10
	sessionCache   = 1024
)

// Client makes requests as the server called Server. Its fields are set before its first use; afterwards
// it is safe for concurrent use.
type Client struct {
	Server   id.ServerName
	Key      sign.Key
	Resolver *discovery.Resolver
	// RootCAs are trusted for other servers' certificates; nil is the system's set.
	RootCAs   *x509.CertPool
	UserAgent string
	// Patience is how long another server may send less of an answer than it has to; 20 seconds if zero.
	Patience time.Duration
	// Answered is told of each server that has answered a request; it may be nil.
	Answered func(id.ServerName)

	once      sync.Once
	transport *http.Transport // for signed requests, by server name
	redirects *http.Client    // for media that lives outside the federation
	decoding  decoding
}

// Close closes the connections that are not in use.
func (c *Client) Close() {
	c.start()
	c.transport.CloseIdleConnections()
	c.redirects.CloseIdleConnections()
}

func (c *Client) start() {
	c.once.Do(func() {
		c.transport = &http.Transport{
			DialTLSContext:         (&dialer{c.Resolver, c.tlsConfig()}).dial,
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdlePerServer,
			MaxConnsPerHost:        maxPerServer,
			DisableCompression:     true, // a few bytes could become as many as the limit allows
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
		}
		c.redirects = &http.Client{
			Transport: &http.Transport{
				DialContext:            c.Resolver.Guard.DialContext,
				TLSClientConfig:        c.tlsConfig(),
				TLSHandshakeTimeout:    handshakeTimeout,
				MaxIdleConns:           maxIdlePerServer,
				IdleConnTimeout:        idleTimeout,
				MaxResponseHeaderBytes: maxHeaderBytes,
			},
			CheckRedirect: checkRedirect,
		}
	})
}

func (c *Client) tlsConfig() *tls.Config {
	return &tls.Config{
		RootCAs:            c.RootCAs,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache),
	}
}

// poolKey is the host of a request's URL. http.Transport shares connections between requests of the same
// host and port; here that must be requests to the same server name, since a certificate was checked for
// it. Port 0 stands for "none" and occurs in no server name.
func poolKey(name id.ServerName) string {
	if name.Port() == "" {
		return string(name) + ":0"
	}
	return string(name)
}

type dialer struct {
	resolver *discovery.Resolver
	tls      *tls.Config
}

// dial connects to a server, given its poolKey, at the first of its addresses that proves to be it.
func (d *dialer) dial(ctx context.Context, network, key string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	name := id.ServerName(strings.TrimSuffix(key, ":0"))
	target, err := d.resolver.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, address := range target.Addresses {
		conn, err := d.dialTLS(ctx, network, address, target.TLSName)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) dialTLS(ctx context.Context, network, address, name string) (net.Conn, error) {
	plain, err := d.resolver.Guard.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	config.ServerName = name
	conn := tls.Client(plain, config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("proving that %s is %s: %w", address, name, err)
	}
	return conn, nil
}
