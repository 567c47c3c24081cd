package main

import (
	"context"
	"fmt"
	"testing"
	"time"

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
		w := j.begin("thor", 1)
		for range incarnation * 10000 { // more than is read at first
			j.end(w, lineAck)
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

// Of two changes that are acknowledged as the same, one is lost. To be asked for what is there already changes nothing.
func TestVersionAcknowledgedTwice(t *testing.T) {
	dir := t.TempDir()
	for i, slug := range []string{"thor", "thor", "odin"} {
		j, err := openJournal(dir, i)
		require.NoError(t, err)
		j.changed(tenancy.Tenant{ID: "1", Slug: slug, Status: tenancy.Active, Version: 3}, time.Now())
		require.NoError(t, j.f.Close())
	}
	r, err := readJournals(dir)
	require.NoError(t, err)
	require.Len(t, r.breaches, 1)
	assert.Contains(t, r.breaches[0], "lost: of tenant 1 version 3 was acknowledged twice")
}

// A line that its process was killed in the middle of is none.
func TestLineWithoutAnEnd(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, 0)
	require.NoError(t, err)
	w := j.begin("thor", 1)
	require.NoError(t, j.reading(content{Tenant: "thor", Rows: map[string][]found{"thor": make([]found, 1<<18)}}), "which is long")
	_, err = fmt.Fprintf(j.f, "a %d 17", w)
	require.NoError(t, err)
	r, err := readJournals(dir)
	require.NoError(t, err)
	assert.Equal(t, byte(lineUnknown), r.writes[w].outcome)
	assert.Len(t, r.readings, 1)
}

func TestRefused(t *testing.T) {
	for _, err := range []error{backend.ErrReadOnly, tenancy.ErrReadOnly, backend.ErrTenantMismatch, sqlite.ErrBusy} {
		assert.True(t, refused(fmt.Errorf("storm: %w", err)))
	}
	assert.False(t, refused(fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, backend.ErrReadOnly)))
	assert.False(t, refused(context.DeadlineExceeded))
}
