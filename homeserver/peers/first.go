package peers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// HeadStart is how long a server has for its answer before the next one is asked beside it.
const HeadStart = 3 * time.Second

// ErrNobody says that there is no server to be asked.
var ErrNobody = errors.New("no other server is known that could be asked")

// First asks servers in their order and returns the first good answer: one for which ask has no error. The next server is asked
// when one has failed, or has not answered within its head start. The rest is cancelled then, and has ended when First
// returns. If nobody has a good answer, the error joins those of all. How long it takes in all is up to the context.
func First[T any](ctx context.Context, servers []id.ServerName, ask func(context.Context, id.ServerName) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	asking, cancel := context.WithCancel(ctx)
	answers := make(chan answer)
	begun, ended := 0, 0
	defer func() {
		cancel()
		for ; ended < begun; ended++ {
			<-answers
		}
	}()
	var none T
	if len(servers) == 0 {
		return none, ErrNobody
	}
	var errs []error
	for next := time.NewTimer(0); ; {
		select {
		case <-next.C:
			if begun == len(servers) {
				continue
			}
			server := servers[begun]
			begun++
			next.Reset(HeadStart)
			go func() {
				var a answer
				defer func() {
					if p := recover(); p != nil { // an answer of theirs must not end the process
						a.err = fmt.Errorf("panic over what %s answered: %v\n%s", server, p, debug.Stack())
					}
					answers <- a
				}()
				a.value, a.err = ask(asking, server)
			}()
		case a := <-answers:
			ended++
			if a.err == nil {
				return a.value, nil
			}
			if errs = append(errs, a.err); ended == len(servers) {
				return none, errors.Join(errs...)
			}
			next.Reset(0)
		case <-ctx.Done():
			return none, errors.Join(append(errs, ctx.Err())...)
		}
	}
}
