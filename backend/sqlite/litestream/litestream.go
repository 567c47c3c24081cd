package litestream

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	sqlitedriver "modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// The errors of this package, to be tested for with [errors.Is].
var (
	// ErrLocks: stores must not be replicated in this process, where a file that Litestream closes drops locks that others
	// count on. See "Locks" in the package's documentation.
	ErrLocks = errors.New("tenement: litestream: this process would lose its locks on stores: it needs Linux, and New before the first database is opened")
	// ErrBackend: the stores are not in a directory of backend/sqlite.
	ErrBackend = errors.New("tenement: litestream: only the stores of backend/sqlite, in one directory, can be replicated")
	// ErrTarget: the target's URL cannot be used.
	ErrTarget = errors.New("tenement: litestream: invalid target")
	// ErrNoBackup: the target has nothing of the store as of that moment.
	ErrNoBackup = errors.New("the backup has nothing from before that moment")
	// ErrOtherStore: what was restored carries another tenant's ID: it does not belong where it was found.
	ErrOtherStore = errors.New("what the backup has under this ID is another tenant's")
)

// Config holds the terms of [New]. The zero value of each field means its default.
type Config struct {
	// Interval is how often stores are looked at, and copied if they have changed. Defaults to 1 second.
	Interval time.Duration
	// Idle is for how long a store is kept open that nobody writes to any more. Defaults to 1 minute.
	Idle time.Duration
	// MaxOpen bounds how many stores are open at once. Past it the one that was copied longest ago is closed. An open store
	// takes about ten file descriptors. Defaults to 64.
	MaxOpen int
	// Keep is how far back a moment can lie. A snapshot is made once a day of what is written to, and nothing that is
	// needed for a moment since then is removed. Defaults to 7 days.
	Keep time.Duration
	// Log is told what cannot be copied, and why. Defaults to [slog.Default].
	Log *slog.Logger
}

func (cfg Config) withDefaults() Config {
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	if cfg.Idle <= 0 {
		cfg.Idle = time.Minute
	}
	if cfg.MaxOpen <= 0 {
		cfg.MaxOpen = 64
	}
	if cfg.Keep <= 0 {
		cfg.Keep = 7 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return cfg
}

// Backups is a target that stores are copied to and restored from. It is safe for concurrent use, and holds nothing that
// would have to be closed.
type Backups struct {
	cfg    Config
	target target
}

var _ manage.Backups = (*Backups)(nil)

// New returns the backups at a URL: "file:///var/backups/app" or "s3://BUCKET/PREFIX", for other servers than Amazon's with
// "?endpoint=https://HOST" (and "region=…"), and the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. It asks nobody. It
// returns ErrTarget for a URL that cannot be used.
//
// On Linux it switches the locks of modernc.org/sqlite, for the whole process, to those that a file which is closed elsewhere does
// not drop; call it before any database is opened, or Run returns ErrLocks.
func New(url string, cfg Config) (*Backups, error) {
	t, err := parseTarget(url)
	if err != nil {
		return nil, err
	}
	_, _ = sqlitedriver.OFDLocking(true) // Run looks whether it has worked
	return &Backups{cfg: cfg.withDefaults(), target: t}, nil
}

// locksSafe returns ErrLocks where a closed file drops locks. The driver knows it once it has taken one.
func locksSafe() error {
	if runtime.GOOS != "linux" || !sqlitedriver.OFDLockingEnabled() {
		return ErrLocks
	}
	return nil
}

// directory returns the backend of an application.
func directory(app *tenancy.App) (*sqlite.Backend, error) {
	be, ok := app.Backend().(*sqlite.Backend)
	if !ok {
		return nil, ErrBackend
	}
	if strings.ContainsAny(be.Dir(), "?#%") {
		return nil, fmt.Errorf("%w: the directory %s has a character in its name that Litestream takes for something else: ?, # or %%", ErrBackend, be.Dir())
	}
	return be, nil
}

// Names of the shared store and of the directory for what Litestream keeps here, a directory of each store's in it.
const (
	sharedName = "shared"
	localDir   = "litestream"
)

func local(be *sqlite.Backend, name string) string { return filepath.Join(be.Dir(), localDir, name) }
