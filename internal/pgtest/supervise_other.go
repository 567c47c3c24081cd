//go:build !unix

package pgtest

import (
	"context"
	"fmt"
	"runtime"
)

type supervised struct{ dir string }

func supervise(context.Context, string, string, map[string]string, func(string) (map[string]string, error)) (*supervised, error) {
	return nil, fmt.Errorf("pgtest: starting servers on %s is %w: set %s", runtime.GOOS, ErrNotInstalled, EnvURL)
}

func (s *supervised) stop() error { return nil }

func (s *supervised) run(context.Context, string, ...string) error { return ErrNotInstalled }

func (s *supervised) log() string { return "" }
