package store

// WaitingReaders is how many wait for a connection to read.
func (db *DB) WaitingReaders() (n int) {
	db.readers.mu.Lock()
	defer db.readers.mu.Unlock()
	for _, queue := range db.readers.waiting {
		n += len(queue)
	}
	return n
}
