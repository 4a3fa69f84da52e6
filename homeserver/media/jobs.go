package media

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
)

// jobs are done once for all who want the same at a time. Each of them waits for a place of their own, so that nobody depends
// on the turn of another; the first who has one does the job for all. A job ends when nobody wants it any more.
type jobs[T any] struct {
	places places
	goesOn bool // what has begun is not ended when nobody wants it any more

	mu   sync.Mutex
	open map[string]*job[T]
}

type job[T any] struct {
	claim                // of the place where it is done
	wanted int           // by how many
	done   chan struct{} // closed once there is a result
	value  T
	err    error
}

// do has a job done for a user or a server, or waits for its result. A host may count for the places, too.
func (o *jobs[T]) do(ctx context.Context, key, who string, host id.ServerName, work func(context.Context) (T, error)) (value T, err error) {
	for again := true; again; {
		value, again, err = o.try(ctx, key, who, host, work)
	}
	return value, err
}

// try does once what do does. It is to be done again if the place was lost by another one who wanted the same.
func (o *jobs[T]) try(ctx context.Context, key, who string, host id.ServerName, work func(context.Context) (T, error)) (value T, again bool, err error) {
	j := o.join(key)
	defer o.quit(key, j)
	mine, err := o.places.enter(ctx, &j.claim, who, host)
	if err != nil {
		return value, false, err
	}
	if mine {
		go o.run(key, j, work)
	}
	select {
	case <-j.done:
		return j.value, !mine && errors.Is(j.err, ErrCrowded), j.err
	case <-ctx.Done():
		return value, false, ctx.Err()
	}
}

func (o *jobs[T]) join(key string) *job[T] {
	o.mu.Lock()
	defer o.mu.Unlock()
	j := o.open[key]
	if j == nil {
		j = &job[T]{claim: claim{taken: make(chan struct{})}, done: make(chan struct{})}
		if o.open == nil {
			o.open = map[string]*job[T]{}
		}
		o.open[key] = j
	}
	j.wanted++
	return j
}

func (o *jobs[T]) run(key string, j *job[T], work func(context.Context) (T, error)) {
	defer o.places.leave(j.place)
	j.value, j.err = guarded(j.place.inside, work)
	if j.err != nil && errors.Is(context.Cause(j.place.inside), ErrCrowded) {
		j.err = ErrCrowded
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(key, j)
	close(j.done)
}

// guarded makes an error of a panic, as in what decodes the images of strangers: no handler of a request would catch it.
func guarded[T any](ctx context.Context, work func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a job for media: %v\n%s", p, debug.Stack())
		}
	}()
	return work(ctx)
}

func (o *jobs[T]) quit(key string, j *job[T]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if j.wanted--; j.wanted > 0 {
		return
	}
	select {
	case <-j.taken:
		if o.goesOn {
			return
		}
		j.place.cancel(context.Canceled)
	default: // and nobody is left to take it
	}
	o.forget(key, j)
}

// forget makes the next who wants the same begin anew. The caller holds the lock.
func (o *jobs[T]) forget(key string, j *job[T]) {
	if o.open[key] == j {
		delete(o.open, key)
	}
}
