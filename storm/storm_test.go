package main

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(envOrder); text != "" {
		if err := serveUntil(text, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestScheduleIsTheSeeds(t *testing.T) {
	kinds := []faultKind{faultKill, faultCut, faultMigrate}
	one := schedule(7, time.Minute, kinds)
	assert.Equal(t, one, schedule(7, time.Minute, kinds))
	assert.NotEqual(t, one, schedule(8, time.Minute, kinds))
	seen := map[faultKind]bool{}
	for i, f := range one[:3] {
		seen[f.kind] = true
		assert.Greater(t, one[i+1].at, f.at)
	}
	assert.Len(t, seen, 3, "each kind in each round")
	assert.Less(t, one[len(one)-1].at, time.Minute)
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, 3)
	require.NoError(t, err)
	acked, unknown, never, cut := j.begin("a", 1), j.begin("b", 2), j.begin("a", 3), j.begin("b", 4)
	j.end(acked, lineAck)
	j.end(unknown, lineUnknown)
	j.end(never, lineNever)
	j.note(lineBreach, "wrong: two\nlines")
	j.note(lineCount, "1")
	j.note(lineCount, "5")
	j.note(linePurging, "a")
	_, err = openJournal(dir, 3)
	require.Error(t, err, "a process has a journal of its own")

	r, err := readJournals(dir)
	require.NoError(t, err)
	at := r.writes[acked].at
	assert.InDelta(t, time.Now().UnixNano(), at, float64(time.Minute))
	assert.Equal(t, map[uint64]write{
		acked: {tenant: 0, parts: 1, outcome: lineAck, at: at}, unknown: {tenant: 1, parts: 2, outcome: lineUnknown},
		never: {tenant: 0, parts: 3, outcome: lineNever}, cut: {tenant: 1, parts: 4, outcome: lineUnknown},
	}, r.writes)
	assert.Equal(t, []string{"wrong: two ⏎ lines"}, r.breaches)
	assert.Equal(t, 5, r.ops)
	assert.True(t, r.mayBeGone("a"))
	assert.False(t, r.mayBeGone("b"))
}

func TestLineKnowsWhoWasOvertaken(t *testing.T) {
	inOrder, outOfIt := &line{waiting: map[int]int{}}, &line{waiting: map[int]int{}}
	for range 100 {
		inOrder.leave(inOrder.enter(), true)
	}
	assert.Equal(t, 100, inOrder.served)
	assert.Zero(t, inOrder.overtaken)
	assert.False(t, inOrder.unfair())

	for range rushAtLeast / 2 { // those who come last are served first
		var numbers []int
		for range rushers {
			numbers = append(numbers, outOfIt.enter())
		}
		gaveUp := outOfIt.enter()
		outOfIt.leave(gaveUp, false)
		slices.Reverse(numbers)
		for _, n := range numbers {
			outOfIt.leave(n, true)
		}
	}
	assert.Equal(t, outOfIt.served*(rushers-1)/2, outOfIt.overtaken)
	assert.True(t, outOfIt.unfair())
}

// A short one, so that what is here is known to work.
func TestStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	v, err := onStage(t.Context(), "sqlite", func(st *stage) (*verdict, error) {
		return storm(t.Context(), st, terms{seed: 1, d: 4 * time.Second, actors: 10, tenants: 20, late: time.Minute})
	})
	require.NoError(t, err)
	assert.Empty(t, v.Breaches)
	assert.Positive(t, v.Rows)
	assert.Positive(t, v.Calm)
}
