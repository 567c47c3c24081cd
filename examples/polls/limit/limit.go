// Package limit bounds how often something may be tried.
package limit

import (
	"time"

	"github.com/maypok86/otter/v2"
)

// Config says how often is too often.
type Config struct {
	Attempts int              // so many in a Window for one key. Defaults to 10
	Window   time.Duration    // counted from the first attempt. Defaults to 5 minutes
	MaxKeys  int              // so many keys are remembered, the least used forgotten. Defaults to 20,000
	Now      func() time.Time // Defaults to time.Now
}

// A Limiter counts attempts by key. It is safe for concurrent use, starts no goroutines and its memory is bounded: whoever
// sends more keys than it remembers gets forgotten ones, not more memory.
type Limiter struct {
	cfg   Config
	cache *otter.Cache[string, window]
}

type window struct {
	ends     time.Time
	attempts int
}

// New returns a Limiter that has counted nothing.
func New(cfg Config) *Limiter {
	if cfg.Attempts <= 0 {
		cfg.Attempts = 10
	}
	if cfg.Window <= 0 {
		cfg.Window = 5 * time.Minute
	}
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = 20_000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Limiter{cfg: cfg, cache: otter.Must(&otter.Options[string, window]{
		MaximumSize: cfg.MaxKeys,
		Executor:    func(maintain func()) { maintain() },
	})}
}

// Take counts an attempt. When the key has had its share, it returns how long to wait instead, which is more than 0.
func (l *Limiter) Take(key string) (wait time.Duration) {
	now := l.cfg.Now()
	l.cache.Compute(key, func(w window, found bool) (window, otter.ComputeOp) {
		wait = 0
		switch {
		case !found || !now.Before(w.ends):
			return window{ends: now.Add(l.cfg.Window), attempts: 1}, otter.WriteOp
		case w.attempts >= l.cfg.Attempts:
			wait = w.ends.Sub(now)
			return w, otter.CancelOp
		}
		w.attempts++
		return w, otter.WriteOp
	})
	return wait
}

// Forget takes back all that was counted for the key: it turned out to be harmless.
func (l *Limiter) Forget(key string) { l.cache.Invalidate(key) }

// Return takes back one attempt: where many use one key, what one of them did says nothing about the others.
func (l *Limiter) Return(key string) {
	l.cache.ComputeIfPresent(key, func(w window) (window, otter.ComputeOp) {
		w.attempts = max(0, w.attempts-1)
		return w, otter.WriteOp
	})
}
