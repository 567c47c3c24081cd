package driver

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One at a time, in order of arrival; who gives up is passed over; other keys do not matter; nothing is left.
func TestQueues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		first, err := q.Enter(t.Context(), "a")
		require.NoError(t, err)
		other, ok := q.TryEnter("b")
		require.True(t, ok, "another key")
		_, ok = q.TryEnter("a")
		require.False(t, ok)
		var order []int
		for i := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				leave, err := q.Enter(ctx, "a")
				if i == 2 {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				assert.NoError(t, err)
				order = append(order, i)
				leave()
				leave() // does nothing
			}()
			synctest.Wait()
			if i == 2 {
				cancel()
			}
			defer cancel()
		}
		require.Empty(t, order)
		first()
		synctest.Wait()
		require.Equal(t, []int{0, 1, 3, 4}, order)
		other()
		require.Empty(t, q.keys)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = q.Enter(ended, "a")
		require.ErrorIs(t, err, context.Canceled, "the key is free, but nobody wants it any more")
	})
}
