package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func named(n int) entry { return entry{store: backend.MustParseStore(fmt.Sprintf("t%04d", n))} }

func namedList(n int) []entry {
	list := make([]entry, n)
	for i := range list {
		list[i] = named(i)
	}
	return list
}

// drain takes until nothing is left, and returns the names.
func drain(t *testing.T, q *queue) []string {
	t.Helper()
	var names []string
	for {
		tasks, wait, err := q.take(t.Context())
		require.NoError(t, err)
		if len(tasks) == 0 && wait == 0 {
			return names
		}
		require.Zero(t, wait)
		for _, task := range tasks {
			names = append(names, task.store.String())
		}
	}
}

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) tell() time.Time { return c.now }

func TestQueueGivesEachStoreOnce(t *testing.T) {
	t.Parallel()
	q := newQueue(chunks(namedList(1000)), 0, time.Minute)
	names := drain(t, q)
	require.Len(t, names, 1000)
	slices.Sort(names)
	assert.Len(t, slices.Compact(names), 1000)
}

func TestQueueCanaries(t *testing.T) {
	t.Parallel()
	q := newQueue(chunks(namedList(100)), 0, time.Minute)
	q.allow(3)
	assert.Equal(t, []string{"t0000", "t0001", "t0002"}, drain(t, q))
	assert.Empty(t, drain(t, q), "the rest waits to be allowed")
	q.allow(-1)
	assert.Len(t, drain(t, q), 97)
}

func TestQueuePutsOff(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(0, 0)}
	q := newQueue(chunks(namedList(2)), 0, 10*time.Second)
	q.now = c.tell
	tasks, _, err := q.take(t.Context())
	require.NoError(t, err)
	require.Len(t, tasks, 2)
	require.True(t, q.putOff(tasks[1]))
	tasks, wait, err := q.take(t.Context())
	require.NoError(t, err)
	require.Empty(t, tasks)
	require.Positive(t, wait, "it is for the worker to wait")
	for tries := 1; ; tries++ {
		c.now = c.now.Add(wait)
		tasks, _, err = q.take(t.Context())
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		assert.Equal(t, "t0001", tasks[0].store.String())
		assert.Equal(t, tries, tasks[0].tries)
		if !q.putOff(tasks[0]) {
			break
		}
		_, wait, err = q.take(t.Context())
		require.NoError(t, err)
	}
	assert.Greater(t, c.now.Sub(time.Unix(0, 0)), 10*time.Second, "patience is at an end, and not before")
	assert.Less(t, c.now.Sub(time.Unix(0, 0)), 20*time.Second)
}

func TestQueueBudget(t *testing.T) {
	t.Parallel()
	q := newQueue(chunks(namedList(100)), 2, time.Minute)
	q.fail()
	_, _, err := q.take(t.Context())
	require.NoError(t, err)
	q.fail()
	_, _, err = q.take(t.Context())
	require.ErrorIs(t, err, ErrStopped)
}

func TestQueueEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	_, _, err := newQueue(chunks(namedList(1)), 0, time.Minute).take(ctx)
	require.ErrorIs(t, err, enough)
	broken := errors.New("no page")
	q := newQueue(func(context.Context, int) ([]entry, error) { return nil, broken }, 0, time.Minute)
	_, _, err = q.take(t.Context())
	require.ErrorIs(t, err, broken)
}

// From wherever a run begins, each store comes once, whatever the size of a page.
func TestLegs(t *testing.T) {
	t.Parallel()
	all := namedList(50)
	for _, size := range []int{1, 7, 50, 256} {
		for begin := range all {
			l := &legs{
				middle: func(context.Context) (string, error) { return all[begin].store.String(), nil },
				list: func(_ context.Context, after, upto string, limit int) ([]entry, error) {
					var page []entry
					for _, e := range all {
						if name := e.store.String(); name > after && (upto == "" || name <= upto) && len(page) < limit {
							page = append(page, e)
						}
					}
					return page, nil
				},
			}
			var names []string
			for {
				page, err := l.page(t.Context(), size)
				require.NoError(t, err)
				if len(page) == 0 {
					break
				}
				for _, e := range page {
					names = append(names, e.store.String())
				}
			}
			require.Len(t, names, len(all))
			if begin+1 < len(all) {
				require.Equal(t, all[begin+1].store.String(), names[0])
			}
			slices.Sort(names)
			require.Len(t, slices.Compact(names), len(all))
		}
	}
}

func TestThen(t *testing.T) {
	t.Parallel()
	pages := chunks(namedList(3)).then(chunks([]entry{named(7)}))
	var names []string
	for {
		page, err := pages(t.Context(), 2)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			names = append(names, e.store.String())
		}
	}
	assert.Equal(t, []string{"t0000", "t0001", "t0002", "t0007"}, names)
}
