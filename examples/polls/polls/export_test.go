package polls

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// Inside of what the tests look at.
var (
	PrefersHTML   = prefersHTML
	LocalPath     = localPath
	SessionCookie = sessionCookie
	DeviceCookie  = deviceCookie
	Shares        = shares
)

// WaitInLine sets how long who hashes waits.
func (s *Store) WaitInLine(patience time.Duration) { s.hasher.patience = patience }

// HoldLine is somebody who hashes a password at length.
func (s *Store) HoldLine(t *testing.T, ctx context.Context) (leave func()) {
	t.Helper()
	leave, err := s.hasher.lines.enter(ctx, s.hasher.key(ctx))
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// WaitForLine returns when so many are in the line.
func (s *Store) WaitForLine(t *testing.T, ctx context.Context, people int) {
	l := &s.hasher.lines
	for t.Context().Err() == nil {
		l.mu.Lock()
		n := l.all[s.hasher.key(ctx)].people
		l.mu.Unlock()
		if n >= people {
			return
		}
		runtime.Gosched()
	}
}

// Lines is how many lines take memory.
func (s *Store) Lines() int {
	s.hasher.lines.mu.Lock()
	defer s.hasher.lines.mu.Unlock()
	return len(s.hasher.lines.all)
}

// APIRoutes lists "METHOD /path/" of what speaks JSON.
func APIRoutes() (all []string) {
	for _, rt := range (&handler{}).routes() {
		if rt.api != nil {
			all = append(all, rt.method+" "+rt.path)
		}
	}
	return all
}
