package backendtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// able returns the backend's ability, or skips the case.
func able[A any](e *env, be backend.Backend) A {
	e.Helper()
	a, ok := be.(A)
	if !ok {
		e.Skipf("the backend has no %T", *new(A))
	}
	return a
}

var scriptCases = []testCase{
	{
		id: "script", name: "each in its store",
		rule: "RunScripts runs each script in its own store and returns one error per script, nil for those that were committed.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			e.sharedNotes("shared")
			var scripts []backend.Script
			var routes []backend.Route
			for i := range 40 {
				rt := e.tenant(fmt.Sprintf("t%02d", i))
				routes = append(routes, rt)
				scripts = append(scripts, backend.Script{Route: rt, SQL: fmt.Sprintf(`
					CREATE TABLE extra (mark text); -- a comment; with a semicolon
					INSERT INTO extra (mark) VALUES ('it''s; %[1]s');
					INSERT INTO notes (mark) SELECT '%[1]s'`, rt.Store)})
			}
			for _, err := range runner.RunScripts(e.ctx, scripts, backend.ScriptOptions{Async: true}) {
				require.NoError(e, err)
			}
			require.NoError(e, runner.Flush(e.ctx))
			for _, rt := range routes {
				e.holds(rt, rt.Store.String())
				got, err := readStrings(e.in(rt), e.be.DB(), `SELECT mark FROM extra`)
				require.NoError(e, err)
				require.Equal(e, []string{"it's; " + rt.Store.String()}, got)
			}
			e.sharedHolds("shared")
			require.Empty(e, runner.RunScripts(e.ctx, nil, backend.ScriptOptions{}))
		},
	},
	{
		id: "script", name: "a failing one does not stop the rest",
		rule: "A script is a transaction of its own: when it fails nothing of it is kept, the database's error is in the chain, and those after it run.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			a, b, c := e.tenant("a"), e.tenant("b"), e.tenant("c")
			const add = `INSERT INTO notes (mark) VALUES ('1'); INSERT INTO notes (mark) VALUES ('2')`
			errs := runner.RunScripts(e.ctx, []backend.Script{
				{Route: a, SQL: add},
				{Route: b, SQL: add + `; CREATE TABLE half (id integer); INSERT INTO no_such_table VALUES (1); CREATE TABLE rest (id integer)`},
				{Route: route("ghost"), SQL: add},
				{Route: backend.Route{Store: a.Store, Owner: "somebody else"}, SQL: add},
				{Route: b, SQL: `this is not SQL`},
				{Route: c, SQL: add},
			}, backend.ScriptOptions{LockTimeout: 5 * time.Second})
			require.Len(e, errs, 6)
			require.NoError(e, errs[0])
			require.Error(e, errs[1])
			require.ErrorIs(e, errs[2], backend.ErrStoreMissing)
			require.ErrorIs(e, errs[3], backend.ErrStoreMissing)
			require.Error(e, errs[4])
			require.NoError(e, errs[5])
			for _, i := range []int{1, 4} {
				require.NotErrorIs(e, errs[i], backend.ErrOutcomeUnknown)
				require.NotErrorIs(e, errs[i], backend.ErrStoreMissing)
			}
			e.holds(a, "1", "2")
			e.holds(b)
			e.holds(c, "1", "2")
			for _, table := range []string{"half", "rest"} {
				_, err := readStrings(e.in(b), e.be.DB(), `SELECT id FROM `+table)
				require.Error(e, err, "table %s of the script that failed", table)
			}
		},
	},
	{
		id: "script", name: "one that makes its store",
		rule: "A script with Create makes the store and what the text says, or, when it fails, neither; it fails with ErrStoreExists, and changes nothing, when the store is there already.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			b := e.tenant("b", "b1")
			script := func(rt backend.Route) backend.Script {
				return backend.Script{Route: rt, Create: true, SQL: e.notesTable() + `; INSERT INTO notes (mark) VALUES ('made')`}
			}
			bad := script(route("bad"))
			bad.SQL += `; SELECT * FROM no_such_table`
			errs := runner.RunScripts(e.ctx, []backend.Script{
				script(route("a")), script(backend.Route{Store: b.Store, Owner: "somebody else"}), bad, script(route("a")), script(route("c")),
			}, backend.ScriptOptions{})
			require.Len(e, errs, 5)
			require.NoError(e, errs[0])
			require.ErrorIs(e, errs[1], backend.ErrStoreExists)
			require.Error(e, errs[2])
			require.ErrorIs(e, errs[3], backend.ErrStoreExists)
			require.NoError(e, errs[4])
			require.Equal(e, []string{"a", "b", "c"}, e.stores())
			e.holds(route("a"), "made")
			e.holds(route("c"), "made")
			e.holds(b, "b1")
			info, err := e.be.Stat(e.ctx, route("a").Store)
			require.NoError(e, err)
			require.Equal(e, route("a").Owner, info.Owner)
			e.add(route("a"), "more")
			require.NoError(e, runner.RunScripts(e.ctx, []backend.Script{script(route("bad"))}, backend.ScriptOptions{})[0], "the name is free")
		},
	},
	{
		id: "script", name: "the wait for a lock is bounded",
		rule: "LockTimeout bounds the wait for each lock; past it the script fails and nothing of it is kept.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			a, b := e.tenant("a", "a1"), e.tenant("b")
			tx := e.tx(a)
			_, err := tx.Exec(`UPDATE notes SET mark = 'a1'`)
			require.NoError(e, err)
			errs := runner.RunScripts(e.ctx, []backend.Script{
				{Route: a, SQL: `CREATE TABLE half (id integer); ALTER TABLE notes ADD COLUMN x text`},
				{Route: b, SQL: `INSERT INTO notes (mark) VALUES ('b1')`},
			}, backend.ScriptOptions{LockTimeout: 500 * time.Millisecond})
			require.Len(e, errs, 2)
			require.Error(e, errs[0])
			require.NoError(e, errs[1])
			require.NoError(e, tx.Rollback())
			_, err = readStrings(e.in(a), e.be.DB(), `SELECT id FROM half`)
			require.Error(e, err, "nothing of the script is kept")
			e.holds(b, "b1")
			require.NoError(e, runner.RunScripts(e.ctx, []backend.Script{{Route: a, SQL: `ALTER TABLE notes ADD COLUMN x text`}}, backend.ScriptOptions{})[0])
		},
	},
	{
		id: "script", name: "many at once",
		rule: "RunScripts is safe for concurrent use.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			routes := make([]backend.Route, 6)
			for i := range routes {
				routes[i] = e.tenant(fmt.Sprintf("t%d", i))
			}
			failures := newTally()
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					var scripts []backend.Script
					for _, rt := range routes {
						scripts = append(scripts, backend.Script{Route: rt, SQL: `INSERT INTO notes (mark) VALUES ('` + rt.Store.String() + `')`})
					}
					for _, err := range runner.RunScripts(e.ctx, scripts, backend.ScriptOptions{LockTimeout: e.patience}) {
						failures.add(err)
					}
				})
			}
			wg.Wait()
			require.NoError(e, failures.err())
			for _, rt := range routes {
				name := rt.Store.String()
				e.holds(rt, name, name, name, name)
			}
		},
	},
	{
		id: "script", name: "what it does to its connection",
		rule:  "Whatever a script does to search_path or other settings, the scripts and units of work after it are in their own stores.",
		conns: 2,
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			e.sharedNotes("shared")
			for _, statement := range e.hostile() {
				switch statement {
				case `BEGIN`, `BEGIN IMMEDIATE`, `COMMIT`, `ROLLBACK`, `SAVEPOINT mine`, `DISCARD ALL`:
					continue // a script has no transaction control of its own
				}
				errs := runner.RunScripts(e.ctx, []backend.Script{
					{Route: a, SQL: statement},
					{Route: b, SQL: `INSERT INTO notes (mark) VALUES ('b2'); DELETE FROM notes WHERE mark = 'b2'`},
				}, backend.ScriptOptions{})
				require.NoError(e, errs[1], "after %q", statement)
				e.unaffected(fmt.Sprintf("after the script %q in a", statement), a, b)
			}
		},
	},
}

var templateCases = []testCase{
	{
		id: "template", name: "built once per key",
		rule: "CreateFrom makes a store with the template's tables and rows; concurrent calls with one key build once.",
		run: func(e *env) {
			templater := able[backend.Templater](e, e.be)
			var built atomic.Int32
			build := func(ctx context.Context, db *sql.DB) error {
				built.Add(1)
				if _, err := db.ExecContext(ctx, e.notesTable()); err != nil {
					return err
				}
				_, err := db.ExecContext(ctx, insertNote, "seed")
				return err
			}
			failures := newTally()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() { failures.add(templater.CreateFrom(e.ctx, route(fmt.Sprintf("t%d", i)), "v1", build)) })
			}
			wg.Wait()
			require.NoError(e, failures.err())
			require.EqualValues(e, 1, built.Load(), "times that the template was built")
			for i := range 8 {
				rt := route(fmt.Sprintf("t%d", i))
				e.holds(rt, "seed")
				e.add(rt, rt.Store.String())
				e.holds(rt, "seed", rt.Store.String())
				info, err := e.be.Stat(e.ctx, rt.Store)
				require.NoError(e, err)
				require.Equal(e, rt.Owner, info.Owner)
			}
			require.Len(e, e.stores(), 8, "the template is no store")
			require.NoError(e, templater.CreateFrom(e.ctx, route("other"), "v2", build))
			require.EqualValues(e, 2, built.Load(), "another key is another template")
			again := able[backend.Templater](e, e.open(0))
			require.NoError(e, again.CreateFrom(e.ctx, route("later"), "v1", build))
			require.EqualValues(e, 2, built.Load(), "the template is kept across restarts")
			e.holds(route("later"), "seed")
			require.ErrorIs(e, templater.CreateFrom(e.ctx, route("t0"), "v1", build), backend.ErrStoreExists)
			e.holds(route("t0"), "seed", "t0")
		},
	},
	{
		id: "template", name: "an error of build",
		rule: "An error of build is returned, no store is left, and the next call builds again.",
		run: func(e *env) {
			templater := able[backend.Templater](e, e.be)
			a := route("a")
			broken := errors.New("broken")
			err := templater.CreateFrom(e.ctx, a, "v1", func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, e.notesTable())
				return errors.Join(broken, err)
			})
			require.ErrorIs(e, err, broken)
			require.Empty(e, e.stores())
			require.NoError(e, templater.CreateFrom(e.ctx, a, "v1", func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, e.notesTable())
				return err
			}))
			e.add(a, "a1")
			e.holds(a, "a1")
		},
	},
}

var lockCases = []testCase{
	{
		id: "lock", name: "excludes",
		rule: "Lock waits until no other caller, in this or another process, holds the key.",
		run: func(e *env) {
			lockers := []backend.Locker{able[backend.Locker](e, e.be), able[backend.Locker](e, e.open(0))}
			var inside, overlapping atomic.Int32
			failures := newTally()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for range 5 {
						held, err := lockers[i%2].Lock(e.ctx, "key")
						if err != nil {
							failures.add(err)
							return
						}
						if inside.Add(1) > 1 {
							overlapping.Add(1)
						}
						for range 1000 {
							runtime.Gosched() // let others in, if they can
						}
						inside.Add(-1)
						held.Unlock()
					}
				})
			}
			wg.Wait()
			require.NoError(e, failures.err())
			require.Zero(e, overlapping.Load(), "times that two held the lock")
		},
	},
	{
		id: "lock", name: "one key at a time",
		rule: "Different keys do not exclude each other, and waiting ends with the context.",
		run: func(e *env) {
			heldA, heldB := e.lock("a"), e.lock("b/ with 'quotes'\x00 and more")
			ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
			defer cancel()
			_, err := able[backend.Locker](e, e.be).Lock(ctx, "a")
			require.ErrorIs(e, err, context.DeadlineExceeded)
			heldB.Unlock()
			heldA.Unlock()
			e.lock("a").Unlock() // after it was given back
		},
	},
	{
		id: "lock", name: "is tried for",
		rule: "TryLock returns ErrBusy while another caller, in this or another process, holds the key, and otherwise the lock; a context that is over is no refusal.",
		run: func(e *env) {
			other := able[backend.Locker](e, e.open(0))
			held := e.lock("key")
			for _, locker := range []backend.Locker{able[backend.Locker](e, e.be), other} {
				_, err := locker.TryLock(e.ctx, "key")
				require.ErrorIs(e, err, backend.ErrBusy)
			}
			over, cancel := context.WithCancel(e.ctx)
			cancel()
			_, err := other.TryLock(over, "key")
			require.ErrorIs(e, err, context.Canceled)
			require.NotErrorIs(e, err, backend.ErrBusy)
			held.Unlock()
			held, err = other.TryLock(e.ctx, "key")
			require.NoError(e, err, "it was given back")
			require.NoError(e, held.Check(e.ctx))
			_, err = able[backend.Locker](e, e.be).TryLock(e.ctx, "key")
			require.ErrorIs(e, err, backend.ErrBusy, "one that was tried for is held like any other")
			held.Unlock()
			e.lock("key").Unlock()
		},
	},
}

var fenceCases = []testCase{
	{
		id: "lock", name: "fences what is done under it",
		rule: "In a lock's Fence, Create, Drop, Rename and RunScripts work while it is held; once it is not, they fail with ErrLockLost and change nothing, and Check says so.",
		run: func(e *env) {
			held := e.lock("key")
			ctx := held.Fence(e.ctx)
			require.NoError(e, held.Check(e.ctx))
			a, b := route("a"), e.tenant("b", "b1")
			runner, scripts := e.be.(backend.ScriptRunner)
			require.NoError(e, e.be.Create(ctx, a))
			if scripts {
				require.NoError(e, runner.RunScripts(ctx, []backend.Script{{Route: a, SQL: e.notesTable()}}, backend.ScriptOptions{})[0])
			} else {
				e.ddl(a, e.notesTable())
			}
			c := backend.Route{Store: backend.MustParseStore("c"), Owner: a.Owner}
			require.NoError(e, e.be.Rename(ctx, a, c.Store))
			require.NoError(e, held.Check(ctx))
			require.NoError(e, e.be.Drop(ctx, c))
			held.Unlock()
			require.ErrorIs(e, held.Check(e.ctx), backend.ErrLockLost, "Check")
			again := e.lock("key") // somebody else's from now on
			defer again.Unlock()
			assert.ErrorIs(e, e.be.Create(ctx, a), backend.ErrLockLost, "Create")
			assert.ErrorIs(e, e.be.Rename(ctx, b, c.Store), backend.ErrLockLost, "Rename")
			assert.ErrorIs(e, e.be.Drop(ctx, b), backend.ErrLockLost, "Drop")
			if scripts {
				for _, err := range runner.RunScripts(ctx, []backend.Script{
					{Route: b, SQL: `DELETE FROM notes`}, {Route: a, Create: true, SQL: e.notesTable()},
				}, backend.ScriptOptions{}) {
					assert.ErrorIs(e, err, backend.ErrLockLost, "RunScripts")
				}
			}
			require.Equal(e, []string{"b"}, e.stores())
			e.holds(b, "b1")
			require.NoError(e, e.be.Create(again.Fence(e.ctx), a))
		},
	},
	{
		id: "lock", name: "fences what is done in stores",
		rule: "In a lock's Fence, what is begun on a handle works while it is held, and fails with ErrLockLost once it is not. What had begun before goes on in the store that it began in.",
		run: func(e *env) {
			held, a := e.lock("key"), e.tenant("a", "a1")
			ctx := backend.WithRoute(held.Fence(e.ctx), a)
			pinned, owners := e.pin(a), e.be.Maintenance(a)
			defer func() { require.NoError(e, owners.Close()) }()
			ways := map[string]func() error{"a transaction": func() error {
				tx, err := e.be.DB().BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				if _, err = tx.Exec(insertNote, "late"); err != nil {
					return errors.Join(err, tx.Rollback())
				}
				return tx.Commit()
			}}
			for name, db := range map[string]*sql.DB{"routed": e.be.DB(), "bound": pinned, "maintenance": owners} {
				ways[name] = func() error { _, err := db.ExecContext(ctx, insertNote, "late"); return err }
				ways[name+", read"] = func() error { _, err := readMarks(ctx, db); return err }
			}
			if e.postgres() && !e.cfg.TransactionPooler { // behind which what may commit is for transactions only
				ways["a DO"] = func() error {
					rows, err := e.be.DB().QueryContext(ctx, `DO 'BEGIN END'`)
					if err != nil {
						return err
					}
					return errors.Join(rows.Close(), rows.Err())
				}
				ways["a text that commits"] = func() error { _, err := e.be.DB().ExecContext(ctx, `BEGIN; COMMIT`); return err }
			}
			for name, do := range ways {
				require.NoError(e, do(), name)
			}
			_, err := e.be.DB().ExecContext(ctx, `DELETE FROM notes WHERE mark = 'late'`)
			require.NoError(e, err)
			tx, err := e.be.DB().BeginTx(ctx, nil)
			require.NoError(e, err)
			_, err = tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			held.Unlock()
			again := e.lock("key") // somebody else's from now on
			defer again.Unlock()
			_, err = tx.Exec(insertNote, "a3")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			for name, do := range ways {
				assert.ErrorIs(e, do(), backend.ErrLockLost, name)
			}
			e.holds(a, "a1", "a2", "a3")
			_, err = e.be.DB().ExecContext(backend.WithRoute(again.Fence(e.ctx), a), insertNote, "a4")
			require.NoError(e, err)
		},
	},
}

var sweepCases = []testCase{
	{
		id: "sweep", name: "removes what is left over and nothing else",
		rule: "Sweep removes what Leftovers lists; doing it again is fine; no store, and nothing that is in use, is listed.",
		run: func(e *env) {
			sweeper := able[backend.Sweeper](e, e.be)
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			require.NoError(e, e.be.Rename(e.ctx, b, backend.MustParseStore("c")))
			tx := e.tx(a)
			_, err := tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			c := backend.Route{Store: backend.MustParseStore("c"), Owner: b.Owner}
			e.holds(c, "b1")
			e.tenant("gone", "x")
			require.NoError(e, e.be.Drop(e.ctx, route("gone")))
			left, err := sweeper.Leftovers(e.ctx)
			require.NoError(e, err)
			for _, l := range left {
				assert.NotEmpty(e, l.Name)
				assert.NotEmpty(e, l.Kind)
				assert.NotEmpty(e, l.Detail)
				require.NoError(e, sweeper.Sweep(e.ctx, l))
				require.NoError(e, sweeper.Sweep(e.ctx, l), "a second time")
			}
			left, err = sweeper.Leftovers(e.ctx)
			require.NoError(e, err)
			require.Empty(e, left)
			require.NoError(e, tx.Commit())
			e.holds(a, "a1", "a2")
			e.holds(c, "b1")
			require.Equal(e, []string{"a", "c"}, e.stores())
			e.tenant("gone", "new")
			e.holds(route("gone"), "new")
		},
	},
}
