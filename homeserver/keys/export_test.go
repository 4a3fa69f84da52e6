package keys

// PruneInboxesAfter is how many bytes have to be delivered for inboxes to be pruned before their time.
const PruneInboxesAfter = pruneInboxesAfter

// SetDelivered has a number of bytes been delivered since inboxes were last pruned for it.
func (s *Service) SetDelivered(n int64) { s.delivered.Store(n) }

// MessageOverhead is what a delivered message counts as, beside its own bytes.
const MessageOverhead = messageOverhead
