package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// S73: a statement whose answer was lost with the connection is not made again, also behind a cleaning, whose answer was
// lost with it: the server may have executed all of it.
func TestNotAgainBehindACleaning(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			database := pgtest.Shared(t).Database(t)
			watch := open(t, database, nil)
			_, a := tenant(t, watch, "a")
			proxy, url := proxied(t, database)
			be := open(t, url, map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, err := be.DB().ExecContext(a, `SET app.who = 'a'`) // is cleaned away ahead of what comes next
			require.NoError(t, err)

			proxy.SetLatency(time.Second)
			insert := make(chan error, 1)
			go func() {
				_, err := be.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, "once")
				insert <- err
			}()
			rows := func() (n int) {
				require.NoError(t, watch.DB().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&n))
				return n
			}
			require.Eventually(t, func() bool { return rows() == 1 }, 20*time.Second, 5*time.Millisecond)
			proxy.SetLatency(0)
			proxy.CutAll() // with the answer under way
			require.Error(t, <-insert)
			require.Equal(t, 1, rows())
		})
	}
}
