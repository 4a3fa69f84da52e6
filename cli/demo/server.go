package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	pollEvery = 50 * time.Millisecond
	startWait = 30 * time.Second
	stopWait  = 20 * time.Second
)

// server is one organization's server.
type server struct {
	label   string // what the demonstration calls it
	name    string // its server name
	address string
	dir     string
	binary  string
	carrier *http.Client
	process *exec.Cmd
	exited  chan error
}

// newServer writes the configuration of a server whose name has the given host.
func newServer(label, host, dir, binary string, ca *authority) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{label: label, name: fmt.Sprintf("%s:%d", host, port), address: fmt.Sprintf("127.0.0.1:%d", port),
		dir: filepath.Join(dir, "server-"+label), binary: binary}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of server %s: %w", label, err)
	}
	cert, key, err := ca.issue(s.dir)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	s.carrier = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	text := fmt.Sprintf(`server:
  name: %q
  data_dir: %q
  base_url: %q
listen:
  client: %q
tls:
  mode: files
  client: true
  cert: %q
  key: %q
federation:
  enabled: true
  allow_networks: ["127.0.0.0/8", "::1/128"]
  ca_files: [%q]
registration:
  enabled: true
  require_token: false
log:
  level: debug
`, s.name, filepath.Join(s.dir, "data"), s.url(), s.address, cert, key, ca.file)
	if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration of server %s: %w", label, err)
	}
	return s, nil
}

func (s *server) url() string    { return "https://" + s.address }
func (s *server) config() string { return filepath.Join(s.dir, "securecomm.yaml") }
func (s *server) log() string    { return filepath.Join(s.dir, "server.log") }

// start starts the process and waits until it answers.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of server %s: %w", s.label, err)
	}
	defer log.Close()
	process := exec.Command(s.binary, "serve", "--config", s.config())
	process.Dir, process.Stdout, process.Stderr = s.dir, log, log
	if err := process.Start(); err != nil {
		return fmt.Errorf("starting server %s: %w", s.label, err)
	}
	exited := make(chan error, 1)
	s.process, s.exited = process, exited
	go func() { exited <- process.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	return until(ctx, "server "+s.label+" answers", func() (bool, error) {
		select {
		case err := <-exited:
			s.process = nil
			return false, fmt.Errorf("server %s ended: %w", s.label, errors.Join(err, errors.New("it should go on")))
		default:
		}
		answer, err := s.carrier.Get(s.url() + "/_matrix/client/versions")
		if err != nil {
			return false, nil
		}
		return answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
}

// stop asks the process to end, as an administrator would, and waits for it.
func (s *server) stop() error {
	if s.process == nil {
		return nil
	}
	process := s.process
	s.process = nil
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping server %s: %w", s.label, err)
	}
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case err := <-s.exited:
		if err != nil {
			return fmt.Errorf("server %s ended badly: %w", s.label, err)
		}
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("server %s did not stop within %s", s.label, stopWait), process.Process.Kill())
	}
}

func (s *server) logTail() string {
	data, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-6000):])
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// until asks again and again whether something has come about.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-ticker.C:
		}
	}
}
