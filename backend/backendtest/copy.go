package backendtest

import (
	"bytes"
	"database/sql"
	"errors"
	"io"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

const (
	copyIn  = `COPY notes (mark) FROM STDIN`
	copyOut = `COPY (SELECT mark FROM notes ORDER BY id) TO STDOUT`
)

var copyCases = []testCase{
	{
		id: "copy", name: "in the transaction's store",
		rule: "Rows that are copied in and out are those of the transaction's store, as it has them, and go with it when it is rolled back.",
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			conn := e.conn()
			tx, err := conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			var out bytes.Buffer
			e.copies(a, conn, func(c driver.Copier) {
				n, err := c.CopyIn(e.in(a), strings.NewReader("a2\na3\n"), copyIn)
				require.NoError(e, err)
				require.EqualValues(e, 2, n)
				n, err = c.CopyOut(e.in(a), &out, copyOut)
				require.NoError(e, err)
				require.EqualValues(e, 3, n)
			})
			require.Equal(e, "a1\na2\na3\n", out.String())
			require.NoError(e, tx.Rollback())
			e.holds(a, "a1")
			tx, err = conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			e.copies(a, conn, func(c driver.Copier) {
				_, err := c.CopyIn(e.in(a), strings.NewReader("a2\n"), copyIn)
				require.NoError(e, err)
			})
			require.NoError(e, tx.Commit())
			e.holds(a, "a1", "a2")
			e.holds(b, "b1")
		},
	},
	{
		id: "copy", name: "a reader that fails",
		rule: "An error of the reader is in the chain of CopyIn's own, and nothing of what was read before stays.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			conn := e.conn()
			tx, err := conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			torn := errors.New("torn")
			e.copies(a, conn, func(c driver.Copier) {
				_, err := c.CopyIn(e.in(a), io.MultiReader(strings.NewReader("a2\n"), failing{torn}), copyIn)
				require.ErrorIs(e, err, torn)
			})
			_ = tx.Commit() // of a transaction that has ended
			e.holds(a, "a1")
		},
	},
	{
		id: "copy", name: "in a transaction, of the tenant",
		rule: "Copying is refused outside of a transaction, and for another tenant than the transaction's.",
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			conn := e.conn()
			tx, err := conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			e.copies(a, conn, func(c driver.Copier) {
				_, err := c.CopyIn(e.in(b), strings.NewReader("x\n"), copyIn)
				require.Error(e, err)
			})
			require.NoError(e, tx.Rollback())
			e.copies(a, conn, func(c driver.Copier) {
				_, err := c.CopyIn(e.in(a), strings.NewReader("x\n"), copyIn)
				require.Error(e, err)
			})
			e.holds(a, "a1")
			e.holds(b, "b1")
		},
	},
}

// copies calls fn with what copies on a held connection. The case is over where the backend's sessions cannot.
func (e *env) copies(rt backend.Route, conn *sql.Conn, fn func(c driver.Copier)) {
	e.Helper()
	able := true
	require.NoError(e, conn.Raw(func(dc any) error {
		c, ok := dc.(driver.Copier)
		if ok {
			_, err := c.CopyOut(e.in(rt), io.Discard, copyOut)
			ok = !errors.Is(err, errors.ErrUnsupported)
		}
		if able = ok; ok {
			fn(c)
		}
		return nil
	}))
	if !able {
		e.Skipf("the backend's sessions cannot copy")
	}
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
