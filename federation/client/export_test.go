package client

// Counted is how many bytes of large answers count.
func Counted(c *Client) int64 {
	c.decoding.mu.Lock()
	defer c.decoding.mu.Unlock()
	return c.decoding.all
}
