package pgtest

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/leak"
)

// The test binary, run with this variable set, starts a cluster, prints its URL and directory, and waits to be killed.
const envVictim = "TENEMENT_PGTEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(envVictim) == "1" {
		c, err := Start(context.Background())
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%s %s\n", c.AdminURL(), c.socketDir)
		select {}
	}
	leak.Main(m)
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func scan[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&v))
	return v
}

func TestDatabaseBelongsToARoleWithoutSuperuser(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	databaseURL := c.Database(t)
	conn := connect(t, databaseURL)

	assert.False(t, scan[bool](t, conn, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`))
	assert.True(t, scan[bool](t, conn, `SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user`))
	_, err := conn.Exec(t.Context(), `CREATE TABLE public.a (); CREATE SCHEMA s; CREATE ROLE `+randomName("made_"))
	require.NoError(t, err)

	admin := connect(t, c.AdminDatabaseURL(t, databaseURL))
	assert.True(t, scan[bool](t, admin, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`))
	assert.Equal(t, 1, scan[int](t, admin, `SELECT count(*) FROM pg_class WHERE relname = 'a'`))

	socketURL, err := c.SocketURL(databaseURL)
	require.NoError(t, err)
	assert.True(t, scan[bool](t, connect(t, socketURL), `SELECT inet_server_addr() IS NULL`), "over the unix socket")
}

func TestDatabasesInParallelAreApartAndLeaveNothing(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	var mu sync.Mutex
	var names, roles []string
	t.Run("use", func(t *testing.T) {
		for range 8 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				databaseURL := c.Database(t)
				conn := connect(t, databaseURL)
				role := randomName("tenant_")
				_, err := conn.Exec(t.Context(), `CREATE TABLE mine (); CREATE ROLE `+role+`; GRANT `+role+` TO CURRENT_USER`)
				require.NoError(t, err)
				other := connect(t, c.Role(t, databaseURL))
				_, err = other.Exec(t.Context(), `DROP TABLE mine`)
				require.Error(t, err, "another role has no right to the table")
				u, err := url.Parse(databaseURL)
				require.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				names = append(names, strings.TrimPrefix(u.Path, "/"))
				roles = append(roles, u.User.Username(), other.Config().User, role)
				// The connections are still open: the database is dropped all the same.
			})
		}
	})
	require.Len(t, names, 8)
	admin := connect(t, c.AdminURL())
	assert.Zero(t, scan[int](t, admin, `SELECT count(*) FROM pg_database WHERE datname = ANY($1)`, names))
	assert.Zero(t, scan[int](t, admin, `SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)`, roles))
}

func TestBouncerPoolsTransactions(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	databaseURL := c.Database(t)
	through, err := url.Parse(Bouncer(t, databaseURL, BouncerConfig{PoolSize: 2}))
	require.NoError(t, err)
	query := through.Query()
	query.Set("default_query_exec_mode", "exec") // nothing prepared, as PgBouncer before 1.21 needs it
	through.RawQuery = query.Encode()

	servers := map[int]bool{}
	for range 5 { // five clients, open at once, on at most two server connections
		servers[scan[int](t, connect(t, through.String()), `SELECT pg_backend_pid()`)] = true
	}
	assert.LessOrEqual(t, len(servers), 2)
	assert.Contains(t, databaseURL, scan[string](t, connect(t, through.String()), `SELECT current_user::text`))
}

func TestBouncerPreparedStatements(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	through := Bouncer(t, c.Database(t), BouncerConfig{PoolSize: 1, PreparedStatements: 10})
	first, second := connect(t, through), connect(t, through)
	for i := range 3 {
		assert.Equal(t, i, scan[int](t, first, `SELECT $1::int`, i))
		assert.Equal(t, i, scan[int](t, second, `SELECT $1::int`, i))
	}
}

// S86. What compares text by its bytes is found out where the database does not.
func TestCollationIsNotThatOfBytes(t *testing.T) {
	t.Parallel()
	byBytes := scan[bool](t, connect(t, Shared(t).Database(t)), `SELECT 'B' < 'a'`)
	require.False(t, byBytes)
}

func TestStopRemovesEverything(t *testing.T) {
	t.Parallel()
	Shared(t) // skips when Postgres is not installed
	c, err := Start(t.Context(), "work_mem=7MB")
	require.NoError(t, err)
	assert.Equal(t, "7MB", scan[string](t, connect(t, c.AdminURL()), `SHOW work_mem`))
	require.NoError(t, c.Stop())
	require.NoError(t, c.Stop(), "a second time")
	assert.NoDirExists(t, c.socketDir)
	_, err = pgx.Connect(t.Context(), c.AdminURL())
	require.Error(t, err)
}

func TestServerEndsWithAProcessThatIsKilled(t *testing.T) {
	t.Parallel()
	Shared(t)
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), envVictim+"=1")
	stdout, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	var adminURL, dir string
	_, err = fmt.Fscanln(bufio.NewReader(stdout), &adminURL, &dir)
	require.NoError(t, err)
	require.NoError(t, connect(t, adminURL).Ping(t.Context()))

	require.NoError(t, victim.Process.Signal(syscall.SIGKILL))
	require.Error(t, victim.Wait())
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, time.Minute, 20*time.Millisecond, "the directory of the server goes when the server has ended")
}

func TestStartSaysWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	Shared(t)
	_, err := Start(t.Context(), "work_mem=lots")
	require.ErrorContains(t, err, "work_mem")
	_, err = Start(t.Context(), "work_mem")
	require.ErrorContains(t, err, "want name=value")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Start(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAttachRefusesWhatIsNoSuperuser(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	_, err := Attach(t.Context(), c.Database(t))
	require.ErrorContains(t, err, "not a superuser")
	_, err = Attach(t.Context(), "dbname=app")
	require.ErrorContains(t, err, "must be a URL")
}

func TestStandbyFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	Shared(t)
	primary, err := Start(t.Context(), append([]string{"fsync=off"}, Primary...)...)
	require.NoError(t, err)
	defer func() { require.NoError(t, primary.Stop()) }()
	databaseURL, _, err := primary.NewDatabase(t.Context())
	require.NoError(t, err)
	standby, err := primary.StartStandby(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, standby.Stop()) }()
	there, err := standby.At(databaseURL)
	require.NoError(t, err)
	assert.True(t, scan[bool](t, connect(t, there), `SELECT pg_is_in_recovery()`))

	require.NoError(t, primary.Kill(t.Context()))
	_, err = pgx.Connect(t.Context(), databaseURL)
	require.Error(t, err)
	require.NoError(t, standby.Promote(t.Context()))
	_, err = connect(t, there).Exec(t.Context(), `CREATE TABLE mine ()`)
	require.NoError(t, err)
	require.NoError(t, primary.Revive(t.Context()))
	require.NoError(t, connect(t, databaseURL).Ping(t.Context()))
}
