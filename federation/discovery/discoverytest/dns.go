package discoverytest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// SRV is one service record.
type SRV struct {
	Priority uint16
	Target   string // with a dot at the end
	Port     uint16
}

// DNS is a name server on the loopback interface. Names in its maps end in a dot; a name that is in
// neither map does not exist.
type DNS struct {
	Hosts    map[string][]netip.Addr
	Services map[string][]SRV

	conn  net.PacketConn
	mu    sync.Mutex
	asked map[string]int
}

// Start serves until the test ends. The maps must not change afterwards.
func (d *DNS) Start(t testing.TB) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.conn, d.asked = conn, map[string]int{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// Resolver asks this server and no other.
func (d *DNS) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", d.conn.LocalAddr().String())
	}}
}

// Asked counts the questions about a name.
func (d *DNS) Asked(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[name]
}

func (d *DNS) serve() {
	packet := make([]byte, 1500)
	for {
		n, from, err := d.conn.ReadFrom(packet)
		if err != nil {
			return // closed
		}
		var question dnsmessage.Message
		if question.Unpack(packet[:n]) != nil || len(question.Questions) != 1 {
			continue
		}
		answer := d.answer(question)
		if packed, err := answer.Pack(); err == nil {
			_, _ = d.conn.WriteTo(packed, from)
		}
	}
}

func (d *DNS) answer(question dnsmessage.Message) dnsmessage.Message {
	q := question.Questions[0]
	name := q.Name.String()
	d.mu.Lock()
	d.asked[name]++
	d.mu.Unlock()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: question.ID, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: question.Questions,
	}
	hosts, services := d.Hosts[name], d.Services[name]
	if hosts == nil && services == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	add := func(body dnsmessage.ResourceBody) {
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
	}
	switch q.Type {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		for _, addr := range hosts {
			switch {
			case addr.Is4() && q.Type == dnsmessage.TypeA:
				add(&dnsmessage.AResource{A: addr.As4()})
			case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
				add(&dnsmessage.AAAAResource{AAAA: addr.As16()})
			}
		}
	case dnsmessage.TypeSRV:
		for _, s := range services {
			target := dnsmessage.MustNewName(s.Target)
			add(&dnsmessage.SRVResource{Priority: s.Priority, Weight: 1, Target: target, Port: s.Port})
		}
	}
	return m
}
