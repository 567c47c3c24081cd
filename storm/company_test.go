package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that ends with an error has died, one that was killed has not; and a kill that came too late was none.
func TestHowProcessesEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	st := &stage{url: "sqlite:" + t.TempDir(), dir: dir}
	c := &company{st: st, order: order{URL: st.url, Journal: dir, Migrate: 1}, done: map[faultKind]int{}}
	_, err := openJournal(dir, 1)
	require.NoError(t, err)
	start := func() *process {
		p, err := c.start(func(*order) {})
		require.NoError(t, err)
		p.doomed = true
		p.ready()
		return p
	}

	failed := start() // to open a journal that there is
	<-failed.done
	assert.Len(t, failed.died(), 1)

	cut := start()
	cut.kill()
	assert.Empty(t, cut.died())
	c.counted(cut)
	assert.Equal(t, map[faultKind]int{faultMigrKill: 1}, c.done)

	over := start()
	_, err = over.in.Write([]byte{'\n'})
	require.NoError(t, err)
	<-over.done
	over.kill()
	assert.Empty(t, over.died())
	c.counted(over)
	assert.Equal(t, map[faultKind]int{faultMigrKill: 1, faultMigrate: 1}, c.done)

	r, err := readJournals(dir)
	require.NoError(t, err)
	assert.Empty(t, r.breaches)
}

func TestMigratorThatCannotOpenIsABreach(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, 1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	migrateAll(ctx, order{URL: "nobody's:", Migrate: 1}, j)
	r, err := readJournals(dir)
	require.NoError(t, err)
	require.Len(t, r.breaches, 1)
	assert.Contains(t, r.breaches[0], "a migrator cannot open")
}
