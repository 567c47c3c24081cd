package main

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"os"

	"github.com/tenement-go/tenement/internal/machine"
)

// The same question for SQLite: how many files are open.

var scaleFileSuites = []suite{{
	name: "scale_files", what: "1,000 files at random, 8 goroutines, our defaults",
	rows: []row{
		{id: "scale_files", what: "÷ a `*sql.DB` per store kept open", ours: "sql", ref: "bare", bar: 1.2},
		{id: "scale_files_memory", what: "memory of the process", metric: heap, ours: "sql, memory", ref: "bare, memory"},
	},
	measure: manyFiles,
}}

func manyFiles(ctx context.Context, e *env, s *scores) error {
	stores := e.pick(1000, 40)
	be, dir, err := e.sqlite(ctx, "", stores)
	if err != nil {
		return err
	}
	bare := make([]*sql.DB, stores)
	for i := range bare {
		if bare[i], err = e.bareFile(dir, i, ""); err != nil {
			return err
		}
	}
	ours, theirs := routedFiles(be, stores), filePerTenant(bare)
	for _, k := range []contender{ours, theirs} {
		grown, known, err := memoryOf(ctx, k, 20*stores)
		if err != nil {
			return err
		}
		if known {
			s.add(k.name+", memory", measured{heap: grown})
		}
	}
	return e.contest(ctx, s, contest{goroutines: saturating}, ours, theirs)
}

// memoryOf returns how far this process grows when a contender begins, where the system tells: SQLite's memory is not on
// Go's heap.
func memoryOf(ctx context.Context, k contender, reads int) (grown float64, known bool, err error) {
	before, errBefore := ownMemory()
	op := k.worker(rand.New(rand.NewPCG(1, 1)))
	for range reads {
		if err := op(ctx); err != nil {
			return 0, false, err
		}
	}
	after, errAfter := ownMemory()
	return after - before, errBefore == nil && errAfter == nil, nil
}

func ownMemory() (float64, error) {
	_ = liveHeap() // collects
	return machine.Anonymous(os.Getpid())
}
