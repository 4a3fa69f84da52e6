package stream

import "testing"

// TestJudge has a log whose backups were restored: it began without epochs, had a start, and was restored twice.
func TestJudge(t *testing.T) {
	h := NewHub(40)
	for _, old := range []Token{{Position: 7}, {Position: -3}, {}} {
		if p, life := h.Judge(old); p != old.Position || life != Ours {
			t.Errorf("without epochs, %v is %d of life %d", old, p, life)
		}
	}
	h.SetEpochs([]Epoch{{"A", 11, 5}, {"B", 21, 5}, {"C", 31, 8}})
	h.SetEpochs([]Epoch{{"A", 11, 5}})
	for _, p := range []Position{-20, -10, -9, -7, -6, -1, 0, 1, 10, 11, 20, 21, 30, 31, 99} {
		token := h.Token(p)
		if at, life := h.Judge(token); at != p || life != Ours {
			t.Errorf("%v, which was given out here, is %d of life %d", token, at, life)
		}
	}
	for _, c := range []struct {
		token Token
		at    Position
		life  Life
	}{
		{Token{Position: 10}, 10, Ours},
		{Token{Position: 11}, 10, Parted},
		{Token{Position: 25}, 10, Parted},
		{Token{Position: -6}, -6, Ours},
		{Token{Position: -7}, -6, Parted},
		{Token{Position: 20, Epoch: "A"}, 20, Ours},
		{Token{Position: 21, Epoch: "A"}, 20, Parted}, // the backup was taken while A ran
		{Token{Position: 35, Epoch: "A"}, 20, Parted},
		{Token{Position: 35, Epoch: "B"}, 30, Parted},
		{Token{Position: -9, Epoch: "B"}, -9, Ours},
		{Token{Position: -10, Epoch: "B"}, -9, Parted},
		{Token{Position: 35, Epoch: "D"}, 35, Unknown},
		{Token{Position: 35, Epoch: "C"}, 35, Ours},
		{Token{Position: 12, Epoch: "C"}, 12, Unknown}, // from before that began: made up
		{Token{Position: 0, Epoch: "A"}, 0, Unknown},
	} {
		if at, life := h.Judge(c.token); at != c.at || life != c.life {
			t.Errorf("%v is %d of life %d, not %d of %d", c.token, at, life, c.at, c.life)
		}
	}
}
