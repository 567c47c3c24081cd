package postgres

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// endsWhenAsked is the context of a lock session that ends as soon as somebody has found it alive.
type endsWhenAsked struct {
	context.Context
	end func()
}

func (c endsWhenAsked) Err() error {
	defer c.end()
	return c.Context.Err()
}

// Whose context has ended is told so, also where the session has ended at the same moment.
func TestLockSaysThatItsContextEnded(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{errAbandoned, backend.ErrClosed, errors.New("connection refused")} {
		t.Run(cause.Error(), func(t *testing.T) {
			t.Parallel()
			be := &Backend{}
			s := be.locks.current(be)
			s.ctx = endsWhenAsked{s.ctx, func() { s.end(cause) }}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := (&lock{key: "a"}).acquire(ctx, be, true)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, cause)
		})
	}
}
