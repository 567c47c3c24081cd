// Package pgtest starts Postgres and PgBouncer for tests and benchmarks, from the binaries that are installed, as
// processes of their own that end with the process that started them, however that one ends.
//
// A test asks for Shared(t), and that for a Database: the cluster is started when a test of the process first needs it,
// or is the one that TENEMENT_TEST_POSTGRES names (the URL of a superuser). `go run ./internal/pgtest/pgrun COMMAND`
// runs a command with that variable set, so that all packages of one `go test` share a cluster. Where Postgres is not
// installed tests are skipped, unless TENEMENT_REQUIRE_POSTGRES=1 asks that they fail.
//
// What is not a test uses Start, Cluster.NewDatabase and StartBouncer.
//
// Citus(t) is the Citus cluster that TENEMENT_TEST_CITUS names; the tests on it are skipped where there is none.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// EnvURL names the variable with the URL of a superuser on a running server, to be used instead of starting one.
	EnvURL = "TENEMENT_TEST_POSTGRES"
	// EnvBinaries names the variable with the directory of the Postgres to be started, of several that are there.
	EnvBinaries = "TENEMENT_TEST_POSTGRES_BIN"
	// EnvRequire names the variable that, when "1", makes tests fail where they would be skipped for want of Postgres
	// or PgBouncer.
	EnvRequire = "TENEMENT_REQUIRE_POSTGRES"
)

// ErrNotInstalled is returned when the binaries of Postgres or PgBouncer, or the unprivileged user to run them as,
// cannot be found.
var ErrNotInstalled = errors.New("not installed")

// Cluster is a Postgres server. It is safe for concurrent use.
type Cluster struct {
	admin     *url.URL
	socketDir string
	supervise *supervised // nil when the server is not ours
	bin       string      // where its programs are; "" when the server is not ours
	nodes     []node      // of a Citus cluster, its coordinator aside
}

// Start initialises a cluster in a temporary directory (below TMPDIR) and starts it with TCP on a free port of 127.0.0.1
// and a unix socket. fsync is on and the caches are small; settings of the form "name=value" go to the server's
// configuration after the defaults, except "icu_locale", which is the collation of every database (plain byte order when
// it is not given). The caller calls Stop; when the process ends without, however it ends, the server
// is stopped and its directory removed all the same. As root it runs as the user postgres. It returns an error that
// wraps ErrNotInstalled when Postgres is not there.
func Start(ctx context.Context, settings ...string) (*Cluster, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	return startAny(ctx, bin, nil, settings)
}

// startAny starts a cluster that is new or, when primary is not nil, a standby of that one.
func startAny(ctx context.Context, bin string, primary *Cluster, settings []string) (*Cluster, error) {
	configuration := map[string]string{
		"max_connections":           "300",
		"shared_buffers":            "128MB",
		"fsync":                     "on",
		"max_wal_size":              "2GB",
		"checkpoint_timeout":        "30min",
		"wal_level":                 "minimal",
		"max_wal_senders":           "0",
		"max_locks_per_transaction": "256",
		"listen_addresses":          "127.0.0.1",
		"jit":                       "off",
	}
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("pgtest: setting %q: want name=value", setting)
		}
		configuration[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}

	return onFreePort(ctx, func(port int) (*Cluster, error) { return start(ctx, bin, primary, configuration, port) })
}

func start(ctx context.Context, bin string, primary *Cluster, configuration map[string]string, port int) (*Cluster, error) {
	configuration = maps.Clone(configuration)
	collation := ""
	if locale := configuration["icu_locale"]; locale != "" {
		collation = "--locale-provider=icu --icu-locale=" + locale
	}
	delete(configuration, "icu_locale")
	configuration["port"] = strconv.Itoa(port)

	// In "$dir": data, log, and the unix socket. The script waits on its standard input, which ends when this process
	// closes it or ends.
	const script = `
set -e
if [ -f backup_label ]; then
	cp backup_label standby.signal data # which then are the own of whoever runs this
else
	mkdir data
	"$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C $collation --no-sync >log 2>&1 </dev/null
fi
cat settings >>data/postgresql.conf
"$bin/pg_ctl" -D data -l log -w -t 120 start >/dev/null 2>&1 </dev/null
echo ready
cat >/dev/null || true
"$bin/pg_ctl" -D data -m immediate -w -t 60 stop >/dev/null 2>&1 </dev/null || true
`
	s, err := supervise(ctx, "postgres", script, map[string]string{"bin": bin, "collation": collation}, func(dir string) (map[string]string, error) {
		configuration["unix_socket_directories"] = dir
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(configuration)) {
			fmt.Fprintf(&lines, "%s = '%s'\n", name, strings.ReplaceAll(configuration[name], "'", "''"))
		}
		files := map[string]string{"settings": lines.String()}
		if primary == nil {
			return files, nil
		}
		label, err := primary.copyData(ctx, dir)
		files["backup_label"], files["standby.signal"] = label, ""
		files["settings"] += fmt.Sprintf("primary_conninfo = 'host=%s port=%s user=postgres'\n", primary.admin.Hostname(), primary.admin.Port())
		return files, err
	})
	if err != nil {
		return nil, err
	}
	return &Cluster{
		admin: &url.URL{
			Scheme:   "postgres",
			User:     url.User("postgres"),
			Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			Path:     "/postgres",
			RawQuery: "sslmode=disable",
		},
		socketDir: s.dir,
		supervise: s,
		bin:       bin,
	}, nil
}

// Attach returns the cluster of a running server, which Stop leaves running. adminURL is the URL of a superuser.
func Attach(ctx context.Context, adminURL string) (*Cluster, error) {
	admin, err := url.Parse(adminURL)
	if err != nil || admin.Hostname() == "" {
		return nil, fmt.Errorf("pgtest: %s must be a URL such as postgres://postgres@127.0.0.1:5432/postgres", EnvURL)
	}
	c := &Cluster{admin: admin}
	err = c.asAdmin(ctx, func(conn *pgx.Conn) error {
		var directories string
		var superuser bool
		err := conn.QueryRow(ctx, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&superuser)
		if err != nil {
			return err
		}
		if !superuser {
			return fmt.Errorf("%s is not a superuser", admin.User.Username())
		}
		if err := conn.QueryRow(ctx, `SHOW unix_socket_directories`).Scan(&directories); err != nil {
			return err
		}
		first, _, _ := strings.Cut(directories, ",")
		c.socketDir = strings.TrimSpace(first)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pgtest: server of %s: %w", EnvURL, err)
	}
	return c, nil
}

// Stop stops the server and removes its directory; open connections are dropped. A server that was attached to goes on.
func (c *Cluster) Stop() error {
	if c.supervise == nil {
		return nil
	}
	return c.supervise.stop()
}

// AdminURL returns the URL of the superuser, in the maintenance database.
func (c *Cluster) AdminURL() string { return c.admin.String() }

// AdminURLOf returns the URL of the superuser in the database of databaseURL.
func (c *Cluster) AdminURLOf(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	admin := *c.admin
	admin.Path = u.Path
	return admin.String(), nil
}

// SocketURL returns databaseURL with the server's unix socket in the place of host and port.
func (c *Cluster) SocketURL(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	query := u.Query()
	query.Set("host", c.socketDir)
	query.Set("port", portOf(u))
	u.Host, u.RawQuery = "", query.Encode()
	return u.String(), nil
}

// asAdmin runs fn on a connection of its own, so that nothing of this package stays open in the process.
func (c *Cluster) asAdmin(ctx context.Context, fn func(*pgx.Conn) error) error {
	return withConn(ctx, c.AdminURL(), fn)
}

func withConn(ctx context.Context, databaseURL string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return fn(conn)
}

// postgresBinaries returns the directory with initdb, pg_ctl and postgres of the newest Postgres.
func postgresBinaries() (string, error) {
	var candidates []string
	if dir := os.Getenv(EnvBinaries); dir != "" {
		candidates = append(candidates, dir)
	} else {
		candidates = installed()
	}
candidate:
	for _, dir := range candidates {
		for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				continue candidate
			}
		}
		return dir, nil
	}
	return "", fmt.Errorf("pgtest: Postgres is %w: install it (apt-get install postgresql) or set %s", ErrNotInstalled, EnvURL)
}

// installed returns where Postgres may be, the newest first.
func installed() (candidates []string) {
	if pgCtl, err := exec.LookPath("pg_ctl"); err == nil {
		if resolved, err := filepath.EvalSymlinks(pgCtl); err == nil {
			candidates = append(candidates, filepath.Dir(resolved))
		}
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well formed
	slices.SortFunc(debian, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
	candidates = append(candidates, debian...)
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(out)))
	}
	return candidates
}

// Client returns the path of a program of Postgres's (pg_dump, psql) that is of a server's version: another may refuse to
// work with it. The connection's URL is that of the server. It returns an error that wraps ErrNotInstalled when there is
// none.
func Client(ctx context.Context, databaseURL, name string) (string, error) {
	var number string
	err := withConn(ctx, databaseURL, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SHOW server_version_num`).Scan(&number)
	})
	if err != nil {
		return "", err
	}
	n, _ := strconv.Atoi(number)
	major := strconv.Itoa(n / 10000)
	candidates := []string{filepath.Join("/usr/lib/postgresql", major, "bin", name)}
	if bin, err := postgresBinaries(); err == nil {
		candidates = append(candidates, filepath.Join(bin, name))
	}
	if path, err := exec.LookPath(name); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		// "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		if fields := strings.Fields(string(out)); err == nil && len(fields) > 2 && strings.HasPrefix(fields[2]+".", major+".") {
			return path, nil
		}
	}
	return "", fmt.Errorf("pgtest: %s of Postgres %s is %w", name, major, ErrNotInstalled)
}

// majorVersion returns 15 for /usr/lib/postgresql/15/bin.
func majorVersion(bin string) int {
	version, _, _ := strings.Cut(filepath.Base(filepath.Dir(bin)), ".")
	n, _ := strconv.Atoi(version) // what is no number sorts last
	return n
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// onFreePort starts a server. A port that was free may be taken by the time the server binds it: then it tries another.
func onFreePort[T any](ctx context.Context, start func(port int) (*T, error)) (*T, error) {
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			return nil, fmt.Errorf("pgtest: %w", err)
		}
		s, err := start(port)
		if err == nil || attempt == 3 || ctx.Err() != nil || errors.Is(err, ErrNotInstalled) {
			return s, err
		}
	}
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return "5432"
}

// randomName returns a name that no other call returns, in this process or another.
func randomName(prefix string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// readyTimeout bounds how long a server may take until it answers, on a machine that is busy with other tests.
const readyTimeout = 2 * time.Minute
