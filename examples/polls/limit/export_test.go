package limit

// Remembers tells whether the key takes memory.
func (l *Limiter) Remembers(key string) bool {
	_, ok := l.cache.GetIfPresent(key)
	return ok
}
