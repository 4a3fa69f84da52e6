package load

// Of what a user writes and the server keeps, Ordinary bytes count as one call; what is larger counts as one more for every
// bytesPerCall.
const (
	Ordinary     = 20 << 10
	bytesPerCall = 4 << 10
)

// MoreCalls is as how many calls it counts to write so many bytes, besides the one that wrote them.
func MoreCalls(size int) int {
	if size <= Ordinary {
		return 0
	}
	return size / bytesPerCall
}
