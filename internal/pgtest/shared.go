package pgtest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"
)

// shared is the cluster of this process's tests. It is not stopped: its pipe ends with the process.
var shared struct {
	mu      sync.Mutex
	started bool
	cluster *Cluster
	err     error
}

// Shared returns the cluster that all tests of the process share: the server of TENEMENT_TEST_POSTGRES, or one that is
// started now and ends with the process. When Postgres is not installed the test is skipped, or fails when
// TENEMENT_REQUIRE_POSTGRES is 1.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.started {
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		if adminURL := os.Getenv(EnvURL); adminURL != "" {
			shared.cluster, shared.err = Attach(ctx, adminURL)
		} else {
			// Tests kill processes, never the machine: what the operating system holds is safe enough.
			shared.cluster, shared.err = Start(ctx, "icu_locale=en-US", "fsync=off", "full_page_writes=off")
		}
		shared.started = true
	}
	check(t, shared.err)
	return shared.cluster
}

// Database returns the URL of a database that is the test's own, as NewDatabase makes it, and drops it when the test
// ends.
func (c *Cluster) Database(t testing.TB) string {
	t.Helper()
	databaseURL, drop, err := c.NewDatabase(testContext(t))
	check(t, err)
	cleanup(t, drop)
	return databaseURL
}

// Role returns the URL of another log-in role to the database of databaseURL, as NewRole makes it, and drops it, with
// what it owns there, when the test ends.
func (c *Cluster) Role(t testing.TB, databaseURL string) string {
	t.Helper()
	roleURL, drop, err := c.NewRole(testContext(t), databaseURL)
	check(t, err)
	cleanup(t, drop)
	return roleURL
}

// AdminDatabaseURL returns the URL of the superuser in the database of databaseURL.
func (c *Cluster) AdminDatabaseURL(t testing.TB, databaseURL string) string {
	t.Helper()
	adminURL, err := c.AdminURLOf(databaseURL)
	check(t, err)
	return adminURL
}

// Bouncer starts a PgBouncer in transaction mode in front of the database of databaseURL until the test ends,
// and returns the URL of the database through it. When PgBouncer is not installed the test is skipped, or fails when
// TENEMENT_REQUIRE_POSTGRES is 1; when it is too old for config.PreparedStatements the test is skipped.
func Bouncer(t testing.TB, databaseURL string, config BouncerConfig) string {
	t.Helper()
	ctx := testContext(t)
	if config.PreparedStatements > 0 {
		prepares, err := BouncerPrepares(ctx)
		check(t, err)
		if !prepares {
			t.Skip("the PgBouncer that is installed is older than 1.21 and knows no prepared statements")
		}
	}
	b, err := StartBouncer(ctx, databaseURL, config)
	check(t, err)
	cleanup(t, func(context.Context) error { return b.Stop() })
	return b.URL()
}

// testTimeout bounds each thing this package does for a test.
const testTimeout = 2 * time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func cleanup(t testing.TB, fn func(context.Context) error) {
	t.Cleanup(func() {
		// The test's own context is cancelled by now.
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := fn(ctx); err != nil {
			t.Error(err)
		}
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNotInstalled) && os.Getenv(EnvRequire) != "1":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
