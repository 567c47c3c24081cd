package backendtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

const waitRule = "A unit of work that waits while its store is dropped or renamed never reaches another store or a shared table of the same name, " +
	"wherever it waits, and what it reports as written is in its store."

var waitCases = []testCase{
	{
		id: "S71", name: "at the store, while it is renamed", rule: waitRule, conns: waitConns,
		run: func(e *env) { waitFor(e, e.be, renames, holdStore) },
	},
	{
		id: "S71", name: "at the store, while it is dropped", rule: waitRule, conns: waitConns,
		run: func(e *env) { waitFor(e, e.be, drops, holdStore) },
	},
	{
		id: "S71", name: "at a table, while the store is renamed", rule: waitRule, conns: waitConns,
		run: func(e *env) { waitFor(e, e.be, renames, holdTable) },
	},
	{
		id: "S71", name: "at a table, while the store is dropped", rule: waitRule, conns: waitConns,
		run: func(e *env) { waitFor(e, e.be, drops, holdTable) },
	},
	{
		id: "S71", name: "for a connection, while the store is renamed", rule: waitRule, conns: 1,
		run: func(e *env) { waitFor(e, e.open(0), renames, holdStore) },
	},
	{
		id: "S71", name: "for a connection, while the store is dropped", rule: waitRule, conns: 1,
		run: func(e *env) { waitFor(e, e.open(0), drops, holdStore) },
	},
}

// waitConns are enough for all units of a round, the one that they wait for and the change.
const waitConns = 12

// A change is what happens to a store while others wait for it.
type change struct {
	do    func(ctx context.Context, be backend.Backend, rt backend.Route) error
	moved func(rt backend.Route) backend.Route // where its rows are afterwards; nil: nowhere
}

var (
	renames = change{
		do: func(ctx context.Context, be backend.Backend, rt backend.Route) error {
			return be.Rename(ctx, rt, movedTo(rt).Store)
		},
		moved: movedTo,
	}
	drops = change{
		do: func(ctx context.Context, be backend.Backend, rt backend.Route) error { return be.Drop(ctx, rt) },
	}
)

func movedTo(rt backend.Route) backend.Route {
	return backend.Route{Store: backend.MustParseStore(rt.Store.String() + "-moved"), Owner: rt.Owner}
}

// holdStore and holdTable make a transaction that the change, or the units, have to wait for.
func holdStore(e *env, tx *sql.Tx) {
	_, err := readMarks(e.ctx, tx)
	require.NoError(e, err)
}

func holdTable(e *env, tx *sql.Tx) {
	_, err := tx.ExecContext(e.ctx, e.pick(`UPDATE notes SET mark = mark`, `LOCK TABLE notes`))
	require.NoError(e, err)
}

// waitFor runs rounds in which units of work queue up behind a change of their store, or ahead of it, and are let go.
func waitFor(e *env, changer backend.Backend, c change, hold func(e *env, tx *sql.Tx)) {
	e.sharedNotes("shared")
	for round := range 5 {
		rt := e.tenant(fmt.Sprintf("a%d", round), "a1")
		warm(e, rt)
		units := waitingUnits(e, rt)
		tx := e.tx(rt)
		hold(e, tx)
		changed := make(chan error, 1)
		go func() { changed <- c.do(e.ctx, changer, rt) }()
		e.waiting(1)
		written := make([]string, len(units))
		var wg sync.WaitGroup
		for i, unit := range units {
			wg.Go(func() { written[i] = unit(fmt.Sprintf("a-%d", i)) })
		}
		e.waiting(1 + len(units))
		if err := tx.Commit(); err != nil {
			require.ErrorIs(e, err, backend.ErrStoreMissing, "the change did not wait for it")
		}
		require.NoError(e, e.within("the change", func() error { return <-changed }))
		wg.Wait()
		e.sharedHolds("shared")
		_, err := readMarks(e.in(rt), e.be.DB())
		if changer == e.be { // what another process drops may be read for a moment, and not more
			require.ErrorIs(e, err, backend.ErrStoreMissing, "afterwards")
		}
		_, err = e.be.DB().ExecContext(e.in(rt), insertNote, "stray")
		require.ErrorIs(e, err, backend.ErrStoreMissing, "afterwards")
		e.sharedHolds("shared")
		if c.moved == nil {
			continue
		}
		got, err := readMarks(e.in(c.moved(rt)), e.be.DB())
		require.NoError(e, err)
		for _, mark := range written {
			if mark != "" {
				require.Contains(e, got, mark, "reported as written")
			}
		}
	}
}

// warm has as many connections as there may be use the store, so that what they cache they have cached.
func warm(e *env, rt backend.Route) {
	e.Helper()
	var wg sync.WaitGroup
	failures := newTally()
	for range waitConns {
		wg.Go(func() {
			for range 3 {
				_, err := readMarks(e.in(rt), e.be.DB())
				failures.add(err)
				_, err = e.be.DB().ExecContext(e.in(rt), `DELETE FROM notes WHERE mark = $1`, "none")
				failures.add(err)
			}
		})
	}
	wg.Wait()
	require.NoError(e, failures.err())
}

// waitingUnits returns units of work of all kinds. Each checks what it reads, and returns the mark that it has written,
// if that was reported as done.
func waitingUnits(e *env, rt backend.Route) []func(mark string) string {
	reads := func(q querier) error {
		marks, err := readMarks(e.in(rt), q)
		for _, m := range marks {
			assert.Equal(e, "a", m[:1], "read by a unit that had waited")
		}
		return err
	}
	done := func(mark string, err error) string {
		if err != nil {
			return ""
		}
		return mark
	}
	inTx := func(options *sql.TxOptions) func(mark string) string {
		return func(mark string) string {
			tx, err := e.be.DB().BeginTx(e.in(rt), options)
			if err != nil {
				return ""
			}
			defer func() { _ = tx.Rollback() }()
			if reads(tx) != nil {
				return ""
			}
			if _, err := tx.ExecContext(e.in(rt), insertNote, mark); err != nil {
				return ""
			}
			return done(mark, tx.Commit())
		}
	}
	owner := e.be.Maintenance(rt)
	e.Cleanup(func() { _ = owner.Close() })
	units := []func(mark string) string{
		func(mark string) string {
			_, err := e.be.DB().ExecContext(e.in(rt), insertNote, mark)
			return done(mark, err)
		},
		func(mark string) string {
			_, err := e.be.DB().ExecContext(e.in(rt), `INSERT INTO notes (mark) VALUES ('`+mark+`')`)
			return done(mark, err)
		},
		func(string) string { return done("", reads(e.be.DB())) },
		inTx(nil),
		inTx(&sql.TxOptions{Isolation: e.snapshot()}),
		func(mark string) string {
			_, err := owner.ExecContext(e.ctx, insertNote, mark)
			return done(mark, err)
		},
	}
	if runner, ok := e.be.(backend.ScriptRunner); ok {
		units = append(units, func(mark string) string {
			script := backend.Script{Route: rt, SQL: `INSERT INTO notes (mark) VALUES ('` + mark + `')`}
			return done(mark, errors.Join(runner.RunScripts(e.ctx, []backend.Script{script}, backend.ScriptOptions{})...))
		})
	}
	return units
}

// snapshot is an isolation level that keeps one snapshot for the whole transaction.
func (e *env) snapshot() sql.IsolationLevel {
	if e.postgres() {
		return sql.LevelRepeatableRead
	}
	return sql.LevelSerializable
}

// waiting returns when n calls wait inside the database, as far as the backend's test can see that.
func (e *env) waiting(n int) {
	e.Helper()
	if e.cfg.Waiting != nil {
		require.NoError(e, e.cfg.Waiting(e.ctx, e.be, n))
	}
}
