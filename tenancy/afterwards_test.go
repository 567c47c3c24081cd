package tenancy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// What is done about a failure outlives a caller who waits by nothing, and one whose context has ended by a moment: a server
// that does not answer kept the caller of Create for another twenty seconds. The times are those of a bubble.
func TestCleaningUpEndsSoonAfterItsCaller(t *testing.T) {
	t.Parallel()
	takes := func(ctx context.Context) time.Duration {
		began := time.Now()
		own, cancel := afterwards(ctx)
		defer cancel()
		<-own.Done()
		return time.Since(began)
	}
	synctest.Test(t, func(t *testing.T) {
		assert.Equal(t, cleanupTimeout, takes(t.Context()))

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		assert.Equal(t, 3*time.Second+cleanupGrace, takes(ctx))

		over, cancel := context.WithCancel(t.Context())
		cancel()
		assert.Equal(t, cleanupGrace, takes(over))

		own, cancel := afterwards(over)
		assert.NoError(t, own.Err(), "there is a moment for it")
		cancel()
		assert.Error(t, own.Err())
		time.Sleep(cleanupTimeout) // until the timers are over
	})
	assert.Less(t, cleanupGrace, 2*time.Second, "what storm/ allows")
}
