package sqlite

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// churn puts stores on a shelf, and another one for each that is closed, until it is over.
type churn struct {
	sh   *shelf
	n    atomic.Int64
	over atomic.Bool
}

// churned is the connection of such a store.
type churned struct {
	raw
	by *churn
}

func (c churned) Close() error {
	if !c.by.over.Load() {
		c.by.put()
	}
	return nil
}

func (c *churn) put() {
	name := backend.MustParseStore(fmt.Sprint("churn", c.n.Add(1)))
	st := c.sh.b.newStore(name, c.sh.b.path(name))
	st.shelved = true
	st.add(&conn{st: st, raw: churned{by: c}, stmts: newStatements(1)})
	c.sh.b.descriptors.conns.Add(1)
	if !c.sh.room.TryAcquire(1) {
		panic("there is no room")
	}
	c.sh.mu.Lock()
	defer c.sh.mu.Unlock()
	st.phase = open
	c.sh.stores.Add(name, st)
	c.sh.count++
}

// However fast stores come and go, a process hears of it that another one renames a store.
func TestRenameIsHeardOfWhileStoresChurn(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir(), func(c *Config) { c.MaxOpenStores = 32 })
	a, rt := withTable(t, b, "a")
	tx, err := b.DB().BeginTx(a, nil) // it is in use, so not one of those that are closed
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()

	churn := &churn{sh: b.stores}
	defer churn.over.Store(true)
	for range 30 {
		churn.put()
	}
	require.True(t, b.stores.tooFull())
	b.stores.trim <- struct{}{}
	require.NoError(t, os.WriteFile(b.marker(rt.Store), nil, 0o600))
	require.Eventually(t, func() bool { return b.stores.peek(rt.Store) == nil }, 10*time.Second, 10*time.Millisecond)
	require.True(t, b.stores.tooFull())
}
