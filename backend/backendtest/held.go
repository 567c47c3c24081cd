package backendtest

import (
	"context"
	"database/sql"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// held is everything that can be open on a store when it is renamed or dropped.
type held struct {
	rt     backend.Route
	tx     *sql.Tx   // has read when rows is there, else has done nothing yet
	rows   *sql.Rows // nil: none
	conn   *sql.Conn
	stmt   *sql.Stmt
	pinned *sql.DB
	owner  *sql.DB
}

// hold opens all of it on rt, which has one note. busy says that rows are open and that the transaction has read, so
// that the database may hold locks for them; without, the transaction has begun and no more.
func (e *env) hold(rt backend.Route, busy bool) *held {
	e.Helper()
	h := &held{rt: rt, pinned: e.pin(rt), owner: e.be.Maintenance(rt)}
	e.Cleanup(func() { _ = h.owner.Close() })
	var err error
	h.stmt, err = e.be.DB().PrepareContext(e.in(rt), insertNote)
	require.NoError(e, err)
	e.Cleanup(func() { _ = h.stmt.Close() })
	h.conn = e.conn()
	for range 7 {
		for _, q := range []querier{h.conn, h.pinned, h.owner, e.be.DB()} {
			_, err := readMarks(e.in(rt), q)
			require.NoError(e, err)
		}
	}
	h.tx, err = e.be.DB().BeginTx(e.in(rt), &sql.TxOptions{ReadOnly: true})
	require.NoError(e, err)
	e.Cleanup(func() { _ = h.tx.Rollback() })
	if !busy {
		return h
	}
	_, err = readMarks(e.ctx, h.tx)
	require.NoError(e, err)
	h.rows, err = e.be.DB().QueryContext(e.in(rt), manyRows("mark"), 5000)
	require.NoError(e, err)
	e.Cleanup(func() { _ = h.rows.Close() })
	require.True(e, h.rows.Next(), "%v", h.rows.Err())
	return h
}

// duringLock runs change, which may have to wait for the transaction and the rows that h holds: they are used while it
// waits, and ended when it goes on waiting.
func (e *env) duringLock(h *held, change func(ctx context.Context) error) error {
	e.Helper()
	done := make(chan error, 1)
	go func() { done <- change(e.ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Second): // it waits, or is slow: either way what follows is allowed
	}
	h.useTx(e, "a")
	if h.rows != nil {
		_ = h.rows.Close()
	}
	_ = h.tx.Rollback()
	select {
	case err := <-done:
		return err
	case <-e.ctx.Done():
		require.FailNow(e, "the change did not come to an end although nothing is open on the store any more")
		return nil
	}
}

// use uses all that is held. What it reads must begin with prefix; what it writes is marked a-late.
func (h *held) use(e *env, prefix string) {
	e.Helper()
	h.useTx(e, prefix)
	for h.rows != nil && h.rows.Next() {
		var mark string
		var n int
		if h.rows.Scan(&mark, &n) == nil {
			require.Equal(e, prefix, mark[:1], "a row that was open before: %q", mark)
		}
	}
	for name, q := range map[string]querier{"held connection": h.conn, "pinned handle": h.pinned, "owner's handle": h.owner, "routed handle": e.be.DB()} {
		marks, err := readMarks(e.in(h.rt), q)
		if err == nil {
			own(e, name, prefix, marks)
		}
		_, _ = q.(execer).ExecContext(e.in(h.rt), insertNote, "a-late")
	}
	_, _ = h.stmt.ExecContext(e.in(h.rt), "a-late")
}

func (h *held) useTx(e *env, prefix string) {
	e.Helper()
	for range 2 {
		if marks, err := readMarks(e.in(h.rt), h.tx); err == nil {
			own(e, "transaction", prefix, marks)
		}
		_, _ = h.tx.ExecContext(e.in(h.rt), insertNote, "a-late")
	}
}

func own(e *env, name, prefix string, marks []string) {
	e.Helper()
	for _, mark := range marks {
		require.Equal(e, prefix, mark[:1], "read by a %s that is older than the change: %q", name, mark)
	}
}

// gone checks that nothing that is held works any more.
func (h *held) gone(e *env) {
	e.Helper()
	_, err := h.stmt.ExecContext(e.in(h.rt), "a-late")
	assert.ErrorIs(e, err, backend.ErrStoreMissing, "a prepared statement")
	for name, q := range map[string]querier{"held connection": h.conn, "pinned handle": h.pinned, "owner's handle": h.owner} {
		_, err := readMarks(e.in(h.rt), q)
		assert.ErrorIs(e, err, backend.ErrStoreMissing, name)
	}
	_, err = readMarks(e.in(h.rt), h.tx)
	assert.Error(e, err, "a transaction")
}
