package sender

// Slow is how many transactions to destinations that have answered have made room for others.
func (s *Sender) Slow() int { return len(s.places.slow) }
