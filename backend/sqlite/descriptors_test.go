package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// manyStores works in more stores than the process may have files open. With late the limit comes down after the backend
// was opened: it runs into it instead of having reckoned with it.
func manyStores(ctx context.Context, dir string, late bool) error {
	const limit, count = 96, 150
	if !late {
		if err := limitDescriptors(limit); err != nil {
			return err
		}
	}
	b, err := sqlite.Open(ctx, dir, sqlite.Config{MaxOpenStores: 12_000, BusyTimeout: 500 * time.Millisecond, Synchronous: sqlite.Off})
	if err != nil {
		return err
	}
	if late {
		if err := limitDescriptors(limit); err != nil {
			return err
		}
	}
	if _, err := b.Shared().ExecContext(ctx, "CREATE TABLE plans (id INTEGER); INSERT INTO plans VALUES (1)"); err != nil {
		return err
	}
	if err := fillStores(ctx, b, count); err != nil {
		return err
	}
	if err := useStores(ctx, b, count); err != nil {
		return err
	}
	if err := holdStores(ctx, b, count); err != nil {
		return err
	}
	return b.Close()
}

func route(i int) backend.Route {
	return backend.Route{Store: backend.MustParseStore(fmt.Sprint("t", i)), Owner: fmt.Sprint(i)}
}

func fillStores(ctx context.Context, b *sqlite.Backend, count int) error {
	for i := range count {
		err := b.CreateFrom(ctx, route(i), "marks", func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, marks)
			return err
		})
		if err != nil {
			return fmt.Errorf("create %d: %w", i, err)
		}
	}
	return nil
}

// useStores works in all of them, from several goroutines.
func useStores(ctx context.Context, b *sqlite.Backend, count int) error {
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for worker := range 4 {
		wg.Go(func() {
			for i := range count {
				in := backend.WithRoute(ctx, route((i+worker*37)%count))
				_, err := b.DB().ExecContext(in, "INSERT INTO marks SELECT 'mark' FROM plans")
				if err == nil && i%10 == 0 {
					_, err = b.Stat(ctx, route(i).Store)
				}
				if err == nil && i%10 == 5 {
					err = b.RunScripts(ctx, []backend.Script{{Route: route(i), SQL: "UPDATE counters SET n = n + 1"}}, backend.ScriptOptions{})[0]
				}
				if err != nil {
					errs <- fmt.Errorf("worker %d, store %d: %w", worker, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		return err
	}
	for i := range count {
		var n int
		if err := b.DB().QueryRowContext(backend.WithRoute(ctx, route(i)), "SELECT count(*) FROM marks").Scan(&n); err != nil || n != 4 {
			return fmt.Errorf("store %d has %d marks: %w", i, n, err)
		}
	}
	return nil
}

// holdStores has as many of them in use as can be; then it is told what to do.
func holdStores(ctx context.Context, b *sqlite.Backend, count int) error {
	var held []*sql.Tx
	for i := range count {
		tx, err := b.DB().BeginTx(backend.WithRoute(ctx, route(i)), nil)
		if err != nil {
			fmt.Println("refused", i, err)
			if !errors.Is(err, backend.ErrBusy) {
				return err
			}
			break
		}
		held = append(held, tx)
	}
	for _, tx := range held {
		if err := tx.Rollback(); err != nil {
			return err
		}
	}
	return nil
}

// However few descriptors there are, stores make room for each other.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no limit")
	}
	for mode, remedy := range map[string]string{"few": "raise max_open", "few, later": "ulimit -n"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			out, err := another(t, mode, t.TempDir()).Output()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "refused")
			require.Contains(t, string(out), remedy)
		})
	}
}
