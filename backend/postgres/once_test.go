package postgres_test

import (
	"database/sql"
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
			const text = `INSERT INTO notes (id, mark) VALUES (1, $1)`
			_, err = tx.ExecContext(a, text, "first")
			require.NoError(t, err)
			insert := make(chan error, 1)
			go func() {
				_, err := be.DB().ExecContext(a, text, "once")
				insert <- err
			}()
			count := func(db *sql.DB, query string) (n int) {
				require.NoError(t, db.QueryRowContext(a, query).Scan(&n))
				return n
			}
			require.Eventually(t, func() bool { // it waits for what becomes of the first of that number
				return count(watch.Shared(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
					WHERE NOT l.granted AND a.datname = current_database()`) == 1
			}, time.Minute, 5*time.Millisecond)
			proxy.SetLatency(time.Hour)
			require.NoError(t, tx.Rollback())
			const rows = `SELECT count(*) FROM notes WHERE mark = 'once'`
			require.Eventually(t, func() bool { return count(watch.DB(), rows) == 1 }, time.Minute, 5*time.Millisecond)
			proxy.CutAll() // with the answer under way
			require.Error(t, <-insert)
			require.Equal(t, 1, count(watch.DB(), rows))
		})
	}
}
