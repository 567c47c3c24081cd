package backendtest

import (
	"context"
	"database/sql"
	"errors"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// readOnly is rt as it is while nothing may change the store.
func readOnly(rt backend.Route) backend.Route {
	rt.ReadOnly = true
	return rt
}

var readOnlyCases = []testCase{
	{
		id: "readonly", name: "what would change the store is refused",
		rule: "On a read-only route every statement that would change the store fails with ErrReadOnly, by whichever handle and call it comes, and reads work.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			ro := e.in(readOnly(a))
			stmt, err := e.be.DB().PrepareContext(ro, insertNote)
			require.NoError(e, err)
			defer func() { _ = stmt.Close() }()
			conn := e.conn()
			handles := map[string]struct {
				ctx context.Context
				db  interface {
					querier
					execer
				}
			}{
				"routed":                              {ro, e.be.DB()},
				"held connection":                     {ro, conn},
				"bound to the route":                  {e.ctx, e.pin(readOnly(a))},
				"bound to the store, the context's":   {ro, e.pin(a)},
				"bound to the route, another context": {e.in(a), e.pin(readOnly(a))},
			}
			for name, h := range handles {
				for _, statement := range []string{
					`INSERT INTO notes (mark) VALUES ('x')`, `UPDATE notes SET mark = 'x'`, `DELETE FROM notes`,
					`CREATE TABLE more (id integer)`, `ALTER TABLE notes ADD COLUMN more text`, `DROP TABLE notes`,
				} {
					_, err := h.db.ExecContext(h.ctx, statement)
					assert.ErrorIs(e, err, backend.ErrReadOnly, "%s: %s", name, statement)
				}
				_, err := readStrings(h.ctx, h.db, `INSERT INTO notes (mark) VALUES ('x') RETURNING mark`)
				assert.ErrorIs(e, err, backend.ErrReadOnly, "%s, as a query", name)
				got, err := readMarks(h.ctx, h.db)
				require.NoError(e, err, "%s", name)
				require.Equal(e, []string{"a1"}, got, "%s", name)
			}
			_, err = stmt.ExecContext(ro, "x")
			assert.ErrorIs(e, err, backend.ErrReadOnly, "prepared")
			for _, opts := range []*sql.TxOptions{nil, {ReadOnly: true}} {
				tx, err := e.be.DB().BeginTx(ro, opts)
				require.NoError(e, err)
				got, err := readMarks(ro, tx)
				require.NoError(e, err)
				require.Equal(e, []string{"a1"}, got)
				_, err = tx.ExecContext(ro, insertNote, "x")
				assert.ErrorIs(e, err, backend.ErrReadOnly, "in a transaction")
				_ = tx.Rollback()
			}
			if e.cfg.Native != nil {
				assert.ErrorIs(e, e.cfg.Native(e.be).Exec(ro, insertNote, "x"), backend.ErrReadOnly, "native")
				assert.ErrorIs(e, e.cfg.Native(e.be).InTx(ro, func(tx Native) error { return tx.Exec(ro, insertNote, "x") }), backend.ErrReadOnly, "native, in a transaction")
			}
			e.holds(a, "a1")
		},
	},
	{
		id: "readonly", name: "it is the route's and not the store's",
		rule:  "A read-only route keeps nobody else from writing, and nothing of it stays: units of work of the store's other routes, Maintenance handles and scripts change the store as always.",
		conns: 2,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for range 3 {
				e.holds(readOnly(a), "a1")
				_, err := e.be.DB().ExecContext(e.in(readOnly(a)), insertNote, "x")
				require.ErrorIs(e, err, backend.ErrReadOnly)
				tx, err := e.be.DB().BeginTx(e.in(readOnly(a)), nil)
				require.NoError(e, err)
				_, err = readMarks(e.ctx, tx)
				require.NoError(e, err)
				require.NoError(e, tx.Commit())
				e.add(a, "passing")
				e.add(b, "passing")
				for _, rt := range []backend.Route{a, b} {
					_, err := e.be.DB().ExecContext(e.in(rt), `DELETE FROM notes WHERE mark = 'passing'`)
					require.NoError(e, err)
				}
			}
			e.ddl(readOnly(a), `INSERT INTO notes (mark) VALUES ('upkeep')`)
			if runner, ok := e.be.(backend.ScriptRunner); ok {
				require.NoError(e, runner.RunScripts(e.ctx, []backend.Script{
					{Route: readOnly(a), SQL: `UPDATE notes SET mark = 'a2' WHERE mark = 'upkeep'`},
				}, backend.ScriptOptions{})[0])
			} else {
				e.ddl(a, `UPDATE notes SET mark = 'a2' WHERE mark = 'upkeep'`)
			}
			e.holds(a, "a1", "a2")
			e.holds(b, "b1")
		},
	},
	{
		id: "readonly", name: "a held connection goes by each statement's route",
		rule: "Each statement, and each transaction, on a connection that is held is read-only or not as its own context says, whatever the one before was.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			for name, db := range map[string]*sql.DB{"routed": e.be.DB(), "bound": e.pin(a)} {
				held, err := db.Conn(e.in(a))
				require.NoError(e, err)
				stmt, err := held.PrepareContext(e.in(a), insertNote)
				require.NoError(e, err)
				want := []string{"a1"}
				for range 2 {
					for _, write := range []func(rt backend.Route) error{
						func(rt backend.Route) error {
							_, err := held.ExecContext(e.in(rt), insertNote, "more")
							return err
						},
						func(rt backend.Route) error {
							_, err := stmt.ExecContext(e.in(rt), "more")
							return err
						},
						func(rt backend.Route) error {
							tx, err := held.BeginTx(e.in(rt), nil)
							if err != nil {
								return err
							}
							if _, err = tx.ExecContext(e.in(rt), insertNote, "more"); err != nil {
								return errors.Join(err, tx.Rollback())
							}
							return tx.Commit()
						},
					} {
						require.NoError(e, write(a), name)
						want = append(want, "more")
						require.ErrorIs(e, write(readOnly(a)), backend.ErrReadOnly, name)
						got, err := readMarks(e.in(readOnly(a)), held)
						require.NoError(e, err)
						require.Equal(e, want, got, name)
					}
				}
				// Rows that are read on are no leave to write, nor in the way of being refused.
				rows, err := held.QueryContext(e.in(a), "SELECT mark FROM notes")
				require.NoError(e, err)
				require.True(e, rows.Next())
				_, err = held.ExecContext(e.in(readOnly(a)), insertNote, "x")
				require.Error(e, err, name)
				_, err = held.QueryContext(e.in(readOnly(a)), insertNote+" RETURNING mark", "x") //nolint:rowserrcheck,sqlclosecheck // it fails
				require.Error(e, err, name)
				require.NoError(e, rows.Close())
				_, err = held.ExecContext(e.in(a), insertNote, "more")
				require.NoError(e, err, name)
				want = append(want, "more")
				e.holds(a, want...)
				require.NoError(e, stmt.Close())
				require.NoError(e, held.Close())
				_, err = db.ExecContext(e.in(a), "DELETE FROM notes WHERE mark = 'more'")
				require.NoError(e, err)
			}
		},
	},
	{
		id: "readonly", name: "a unit of work keeps what it began with",
		rule: "What a transaction may do is said by the route that it began with: contexts of the same store that say otherwise change nothing.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			tx := e.tx(a)
			_, err := tx.ExecContext(e.in(readOnly(a)), insertNote, "a2")
			require.NoError(e, err, "it may write")
			require.NoError(e, tx.Commit())
			tx = e.tx(readOnly(a))
			_, err = tx.ExecContext(e.in(a), insertNote, "x")
			require.ErrorIs(e, err, backend.ErrReadOnly)
			require.NoError(e, tx.Rollback())
			e.holds(a, "a1", "a2")
		},
	},
}
