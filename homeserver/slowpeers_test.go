package homeserver_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestTricklingServersStopNobody: servers whose media never ends leave places to others.
func TestTricklingServersStopNobody(t *testing.T) {
	s := hstest.NewFederating(t)
	honest := hstest.NewPeer(t, s)
	const media = "GET /_matrix/federation/v1/media/download/{id}"
	begin := "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello"
	honest.Handle(media, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
		_, _ = w.Write([]byte(begin + "\r\n--b--\r\n"))
	})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	fetch := func(u *hstest.User, from *hstest.Peer, name string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/_matrix/client/v1/media/download/"+string(from.Name)+"/"+name, nil)
		if err != nil {
			return 0, err
		}
		r.Header.Set("Authorization", "Bearer "+u.Token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		return answer.StatusCode, answer.Body.Close()
	}
	for i := range 4 {
		evil := hstest.NewPeer(t, s)
		// Not so slow that it is cut off for that.
		evil.Handle(media, evil.Trickle("multipart/mixed; boundary=b", []byte(begin), make([]byte, 16<<10), 500*time.Millisecond))
		eve := s.Register(fmt.Sprint("eve", i))
		for n := range 8 {
			wg.Go(func() { _, _ = fetch(eve, evil, fmt.Sprint("M", n)) })
		}
		evil.Await("all downloads", func() bool { return evil.Asked(media[:len(media)-4]) == 8 })
	}
	if status, err := fetch(s.Register("bob"), honest, "M"); status != http.StatusOK {
		t.Errorf("an honest server's media: %d, %v", status, err)
	}
}
