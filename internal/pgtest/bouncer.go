package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// BouncerConfig says what a PgBouncer does. The zero value is usable.
type BouncerConfig struct {
	// PoolSize is the number of server connections. Defaults to 4.
	PoolSize int
	// PreparedStatements is the number of statements that PgBouncer follows on each server connection; 0 means that it
	// knows nothing of prepared statements, as all versions before 1.21 do. See BouncerPrepares.
	PreparedStatements int
	// Settings are further lines of the section [pgbouncer], which win over what is written otherwise.
	Settings string
}

// PgBouncer is a running PgBouncer in transaction mode. It is safe for concurrent use.
type PgBouncer struct {
	databaseURL string
	version     string
	supervise   *supervised
}

// StartBouncer starts a PgBouncer in transaction mode in front of the database of databaseURL, for the role of that
// URL. The caller calls Stop; when the process ends without, PgBouncer ends too. It returns an error that wraps
// ErrNotInstalled when PgBouncer is not there, or too old for the PreparedStatements that are asked for.
func StartBouncer(ctx context.Context, databaseURL string, config BouncerConfig) (*PgBouncer, error) {
	if config.PoolSize == 0 {
		config.PoolSize = 4
	}
	program, err := findBouncer(ctx, config.PreparedStatements > 0)
	if err != nil {
		return nil, err
	}
	if config.PreparedStatements > 0 && !program.prepares {
		return nil, fmt.Errorf("pgtest: a PgBouncer with prepared statements (1.21 or newer) is %w: %s is %s",
			ErrNotInstalled, program.path, program.version)
	}
	server, err := url.Parse(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	return onFreePort(ctx, func(port int) (*PgBouncer, error) { return startBouncer(ctx, program, server, config, port) })
}

func startBouncer(ctx context.Context, program bouncerProgram, server *url.URL, config BouncerConfig, port int) (*PgBouncer, error) {
	password, _ := server.User.Password()
	var ini strings.Builder
	fmt.Fprintf(&ini, "[databases]\n* = host=%s port=%s\n[pgbouncer]\n", server.Hostname(), portOf(server))
	fmt.Fprintf(&ini, "listen_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\n", port)
	fmt.Fprintf(&ini, "auth_type = trust\nauth_file = users\npool_mode = transaction\n")
	fmt.Fprintf(&ini, "max_client_conn = 1000\ndefault_pool_size = %d\nreserve_pool_size = 0\n", config.PoolSize)
	fmt.Fprintf(&ini, "ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n")
	if program.prepares {
		fmt.Fprintf(&ini, "max_prepared_statements = %d\n", config.PreparedStatements)
	}
	ini.WriteString(config.Settings)
	files := map[string]string{
		"pgbouncer.ini": ini.String(),
		"users":         fmt.Sprintf("%q %q\n", server.User.Username(), password),
	}

	// KILL, because what TERM means has changed between versions and there is nothing to save.
	const script = `
"$(cat bin)" pgbouncer.ini >log 2>&1 </dev/null &
pid=$!
until grep -q 'process up' log; do
	kill -0 $pid || exit 1
	sleep 0.02
done
echo ready
cat >/dev/null
kill -KILL $pid
wait $pid 2>/dev/null
true
`
	s, err := supervise(ctx, "pgbouncer", script, nil, func(dir string) (map[string]string, error) {
		path, err := lend(dir, program.path)
		files["bin"] = path
		return files, err
	})
	if err != nil {
		return nil, err
	}
	through := *server
	through.Host = "127.0.0.1:" + strconv.Itoa(port)
	b := &PgBouncer{databaseURL: through.String(), version: program.version, supervise: s}
	err = withConn(ctx, b.databaseURL, func(conn *pgx.Conn) error { return conn.Ping(ctx) })
	if err != nil {
		err = fmt.Errorf("pgtest: PgBouncer: %w: %s", err, s.log())
		_ = b.Stop()
		return nil, err
	}
	return b, nil
}

// URL returns the URL of the database through PgBouncer.
func (b *PgBouncer) URL() string { return b.databaseURL }

// Version returns PgBouncer's own version, such as "1.24".
func (b *PgBouncer) Version() string { return b.version }

// Stop ends PgBouncer, dropping its connections.
func (b *PgBouncer) Stop() error { return b.supervise.stop() }

// BouncerPrepares tells whether there is a PgBouncer that follows prepared statements (1.21 or newer), so that
// BouncerConfig.PreparedStatements may be set.
func BouncerPrepares(ctx context.Context) (bool, error) {
	b, err := findBouncer(ctx, true)
	return b.prepares, err
}

// bouncerProgram is a PgBouncer that can be started.
type bouncerProgram struct {
	path     string
	version  string
	prepares bool
}

// findBouncer returns the PgBouncer that is installed or, where one is wanted that knows prepared statements and that
// one does not, the newer one that scripts/deps.sh has put into bin/, if it is there.
func findBouncer(ctx context.Context, prepares bool) (bouncerProgram, error) {
	var found bouncerProgram
	// Debian's is in sbin, which is not on every user's PATH.
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", filepath.Join(unpackedRoot(), "bin", "pgbouncer")} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		b, err := askBouncer(ctx, path)
		if err != nil {
			return found, err
		}
		if found.path == "" || !found.prepares {
			found = b
		}
		if !prepares || b.prepares {
			return b, nil
		}
	}
	if found.path == "" {
		return found, fmt.Errorf("pgtest: PgBouncer is %w: install it (apt-get install pgbouncer)", ErrNotInstalled)
	}
	return found, nil
}

var bouncerVersionLine = regexp.MustCompile(`(?i)pgbouncer (version )?(\d+)\.(\d+)`)

func askBouncer(ctx context.Context, path string) (bouncerProgram, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return bouncerProgram{}, fmt.Errorf("pgtest: %s --version: %w", path, err)
	}
	match := bouncerVersionLine.FindSubmatch(out)
	if match == nil {
		return bouncerProgram{}, fmt.Errorf("pgtest: %s --version says %q, which holds no version", path, out)
	}
	major, _ := strconv.Atoi(string(match[2])) // digits
	minor, _ := strconv.Atoi(string(match[3]))
	return bouncerProgram{
		path: path, version: string(match[2]) + "." + string(match[3]), prepares: major > 1 || major == 1 && minor >= 21,
	}, nil
}
