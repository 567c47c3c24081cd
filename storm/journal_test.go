package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The count alone is what the whole says, wherever in a journal it stands last.
func TestAnswered(t *testing.T) {
	dir := t.TempDir()
	for incarnation, counts := range [][]string{{}, {"7"}, {"1", "30"}, {"100", "2000"}} {
		j, err := openJournal(dir, incarnation)
		require.NoError(t, err)
		for _, n := range counts {
			j.note(lineCount, n)
		}
		for range incarnation * 10000 { // more than is read at first
			j.end(1, lineAck)
		}
		require.NoError(t, j.f.Close())
	}
	whole, err := readJournals(dir)
	require.NoError(t, err)
	ops, err := answered(dir)
	require.NoError(t, err)
	assert.Equal(t, whole.ops, ops)
	assert.Equal(t, 2037, ops)
}
