package load

import "slices"

// Surplus is what has to go of things that wait, given from the newest to the oldest, so that at most so many of so many bytes
// in all are left. Each whose they are keeps the newest up to a share; the share is as large as it can be, so that who has less
// than that loses nothing.
func Surplus[T any](waiting []T, count, bytes int, who func(T) string, size func(T) int) (drop []T) {
	share := func(size func(T) int, limit int) {
		sum := map[string]int{}
		for _, w := range waiting {
			sum[who(w)] += size(w)
		}
		most := FairShare(sum, limit)
		clear(sum)
		waiting = slices.DeleteFunc(waiting, func(w T) bool {
			sum[who(w)] += size(w)
			over := sum[who(w)] > most
			if over {
				drop = append(drop, w)
			}
			return over
		})
	}
	share(func(T) int { return 1 }, count)
	share(size, bytes)
	return drop
}

// FairShare is the most that each may have so that all together have no more than a limit.
func FairShare[K comparable](has map[K]int, limit int) int {
	all := make([]int, 0, len(has))
	for _, n := range has {
		all = append(all, n)
	}
	slices.Sort(all)
	for i, n := range all {
		each := limit / (len(all) - i)
		if n > each {
			return each
		}
		limit -= n
	}
	return limit + 1<<40 // all is well
}
