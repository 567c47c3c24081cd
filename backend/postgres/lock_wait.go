package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	lockMinPause = 2 * time.Millisecond
	lockMaxPause = 200 * time.Millisecond
)

// waitForKey opens a transaction on c that holds key, as soon as nobody else does. The waiting is done here and not in
// the server's queue: who waits there has a snapshot, for which a CREATE INDEX CONCURRENTLY of the holder would wait, and
// the server sees no deadlock in that.
func waitForKey(ctx context.Context, c *pgx.Conn, key string) error {
	// The holder may be busy elsewhere for long.
	begin := "begin;set local idle_in_transaction_session_timeout=0;" +
		"select pg_catalog.pg_try_advisory_xact_lock(" + formatKey(lockKey(key)) + ")"
	for pause := lockMinPause; ; pause = min(2*pause, lockMaxPause) {
		results, err := c.PgConn().Exec(ctx, begin).ReadAll()
		if err != nil {
			return err
		}
		last := results[len(results)-1]
		if len(last.Rows) != 1 {
			return errors.New("no answer to the question for a lock")
		}
		if string(last.Rows[0][0]) == "t" {
			return nil
		}
		if err := c.PgConn().Exec(ctx, "rollback").Close(); err != nil {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}
