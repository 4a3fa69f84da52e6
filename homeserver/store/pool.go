package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Asker is the key in a context of who is read for, as a string or fmt.Stringer: a user, a server or an address. Nobody gets more than half
// of the readers at a time, and those who wait for one are served in turn. What has no asker is the server's own work.
type Asker struct{}

func asker(ctx context.Context) string {
	switch who := ctx.Value(Asker{}).(type) {
	case string:
		return who
	case fmt.Stringer:
		return who.String()
	}
	return ""
}

// pool is the connections for reading.
type pool struct {
	mu      sync.Mutex
	idle    []*conn
	size    int
	most    int // that one asker may have
	held    map[string]int
	waiting map[string][]chan *conn
	turn    []string // askers that wait, in the order in which they are served
}

func newPool(readers int) *pool {
	return &pool{size: readers, most: max(1, readers/2), held: map[string]int{}, waiting: map[string][]chan *conn{}}
}

// take waits for a connection. give gives it back.
func (p *pool) take(ctx context.Context, stop <-chan struct{}) (*conn, error) {
	who := asker(ctx)
	p.mu.Lock()
	if len(p.idle) > 0 && p.allows(who) {
		// Those who wait have too many.
		defer p.mu.Unlock()
		return p.lend(who), nil
	}
	own := make(chan *conn, 1)
	if len(p.waiting[who]) == 0 {
		p.turn = append(p.turn, who)
	}
	p.waiting[who] = append(p.waiting[who], own)
	p.mu.Unlock()
	var err error
	select {
	case c := <-own:
		return c, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-stop:
		err = ErrClosed
	}
	p.mu.Lock()
	left := slices.DeleteFunc(p.waiting[who], func(other chan *conn) bool { return other == own })
	p.leave(who, left)
	p.mu.Unlock()
	select {
	case c := <-own: // which came just now
		p.give(ctx, c)
	default:
	}
	return nil, err
}

// give takes a connection back that was lent in a context.
func (p *pool) give(ctx context.Context, c *conn) {
	who := asker(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[who]--; p.held[who] <= 0 {
		delete(p.held, who)
	}
	p.add(c)
}

// add makes a connection free for who is next. The caller holds the lock.
func (p *pool) add(c *conn) {
	p.idle = append(p.idle, c)
	i := slices.IndexFunc(p.turn, p.allows)
	if i < 0 {
		return
	}
	who := p.turn[i]
	queue := p.waiting[who]
	p.turn = append(slices.Delete(p.turn, i, i+1), who)
	queue[0] <- p.lend(who)
	p.leave(who, queue[1:])
}

func (p *pool) allows(who string) bool { return who == "" || p.held[who] < p.most }

func (p *pool) lend(who string) *conn {
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	p.held[who]++
	return c
}

// leave notes who of an asker still waits.
func (p *pool) leave(who string, left []chan *conn) {
	if len(left) > 0 {
		p.waiting[who] = left
		return
	}
	delete(p.waiting, who)
	p.turn = slices.DeleteFunc(p.turn, func(other string) bool { return other == who })
}
