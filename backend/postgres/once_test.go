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

			tx, err := watch.DB().BeginTx(a, nil)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback() }()
			_, err = tx.ExecContext(a, `LOCK TABLE notes IN SHARE MODE`)
			require.NoError(t, err)
			insert := make(chan error, 1)
			go func() {
				_, err := be.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, "once")
				insert <- err
			}()
			count := func(query string) (n int) {
				require.NoError(t, watch.DB().QueryRowContext(a, query).Scan(&n))
				return n
			}
			require.Eventually(t, func() bool {
				return count(`SELECT count(*) FROM pg_locks WHERE relation = 'notes'::regclass AND NOT granted`) == 1
			}, time.Minute, 5*time.Millisecond)
			proxy.SetLatency(time.Hour)
			require.NoError(t, tx.Commit())
			const rows = `SELECT count(*) FROM notes`
			require.Eventually(t, func() bool { return count(rows) == 1 }, time.Minute, 5*time.Millisecond)
			proxy.CutAll() // with the answer under way
			require.Error(t, <-insert)
			require.Equal(t, 1, count(rows))
		})
	}
}
