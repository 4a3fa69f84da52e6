//go:build unix

package homeserver

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// What waits in the system for a client that reads slowly is bounded.
func TestSendBuffersAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c, err := readers{l}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*reader).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	if err := errors.Join(raw.Control(func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) }), err); err != nil {
		t.Fatal(err)
	}
	if size > 2*sendBuffer { // the system counts what it needs besides
		t.Errorf("%d bytes", size)
	}
}
