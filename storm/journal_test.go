package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/tenancy"
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

// What is acknowledged of a tenant that is gone, by what the same process knew before, is a breach; what was begun before is not.
func TestWriteAfterThePurgeIsABreach(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, 0)
	require.NoError(t, err)
	before := j.begin("thor", 1)
	j.note(linePurging, "thor")
	asked := j.begin("thor", 1)
	j.note(lineGone, "thor")
	refused, late := j.begin("thor", 1), j.begin("thor", 1)
	other := j.begin("odin", 1)
	j.end(before, lineAck)
	j.end(asked, lineAck)
	j.end(refused, lineUnknown)
	j.end(late, lineAck)
	j.end(other, lineAck)
	require.NoError(t, j.f.Close())
	j, err = openJournal(dir, 1) // who has not heard of it yet says nothing of when
	require.NoError(t, err)
	j.end(j.begin("thor", 1), lineAck)
	require.NoError(t, j.f.Close())
	r, err := readJournals(dir)
	require.NoError(t, err)
	require.Len(t, r.breaches, 1)
	assert.Contains(t, r.breaches[0], fmt.Sprint("wrong: write ", late))
	assert.True(t, r.gone["thor"])
}

func TestRefused(t *testing.T) {
	for _, err := range []error{backend.ErrReadOnly, tenancy.ErrReadOnly, backend.ErrTenantMismatch, sqlite.ErrBusy} {
		assert.True(t, refused(fmt.Errorf("storm: %w", err)))
	}
	assert.False(t, refused(fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, backend.ErrReadOnly)))
	assert.False(t, refused(context.DeadlineExceeded))
}
