package limit_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/limit"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	l := limit.New(limit.Config{Attempts: 3, Window: time.Minute, Now: func() time.Time { return now }})
	for range 3 {
		assert.Zero(t, l.Take("a"))
	}
	now = now.Add(20 * time.Second)
	assert.Equal(t, 40*time.Second, l.Take("a"))
	assert.Zero(t, l.Take("b"), "keys do not count for each other")

	l.Forget("a")
	assert.Zero(t, l.Take("a"))
	for range 5 {
		l.Take("a")
	}
	assert.NotZero(t, l.Take("a"))
	l.Return("a")
	assert.Zero(t, l.Take("a"))
	assert.NotZero(t, l.Take("a"), "one was taken back, no more")
	l.Return("nothing was counted for it")
	now = now.Add(time.Minute)
	assert.Zero(t, l.Take("a"), "a new window begins")
}

func TestLimiterIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Attempts: 10, Window: time.Hour})
	var passed atomic.Int32
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if l.Take("key") == 0 {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 10, passed.Load())
}

func TestLimiterForgetsKeysInsteadOfGrowing(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Attempts: 1, Window: time.Hour, MaxKeys: 100})
	for i := range 10_000 {
		l.Take(fmt.Sprint(i))
	}
	remembered := 0
	for i := range 10_000 {
		if l.Remembers(fmt.Sprint(i)) {
			remembered++
		}
	}
	require.Positive(t, remembered)
	assert.LessOrEqual(t, remembered, 200)
}
