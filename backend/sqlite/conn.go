package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// raw is what the driver underneath gives: everything this package uses of it.
type raw interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Validator
	sqlite.AuthorizerRegisterer
	sqlite.DBStatus
	NewBackup(dst string) (*sqlite.Backup, error)
	ColumnInfo(query string) ([]sqlite.ColumnInfo, error)
}

// conn is a real connection to one store. One unit of work uses it at a time; Drop, Rename and Close may take it away
// between two of that unit's calls, which is what mu is for.
type conn struct {
	st     *store
	tenant bool // not the shared store's own

	mu    sync.Mutex // held during each call into SQLite
	raw   raw        // nil: closed
	stmts *simplelru.LRU[string, *stmt]
	open  []*rows // those not closed yet

	// What the authorizer saw, and how it is to judge. Only touched by the goroutine that is in SQLite.
	effects  effect
	denied   denial
	own      bool // a statement of this package's own: nothing is judged, nothing is noted
	readOnly bool // within a read-only transaction
	script   bool // within a script, which has no business with transactions of its own
	vacuum   bool // a VACUUM runs, alone
	watch    variance

	attached bool  // the shared store is
	lenient  bool  // foreign keys are off
	tainted  bool  // not to be used by anyone else
	schema   int64 // the tenant's schema version that the statements which read shared tables were compiled for
}

// dsn returns the driver's name for the file at path.
func dsn(path, mode string) string { return uri(path, mode) + "&_error_rc=1&_defensive=1" }

// settings returns the text that readies a connection. It is cheaper than parameters of the DSN, which the driver parses
// several times over.
func (cfg Config) settings() string {
	return "PRAGMA trusted_schema=0; PRAGMA foreign_keys=1; PRAGMA cache_size=-" + strconv.Itoa(cfg.CacheSize) +
		"; PRAGMA synchronous=" + string(cfg.Synchronous)
}

// busyTimeout returns the text that has a connection wait for locks. Without it there is no waiting.
func busyTimeout(d time.Duration) string {
	return "PRAGMA busy_timeout=" + strconv.FormatInt(d.Milliseconds(), 10)
}

// uri returns SQLite's URI for an absolute path.
func uri(path, mode string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/data
	}
	return (&url.URL{Scheme: "file", Path: path}).String() + "?mode=" + mode
}

// dial opens a connection to the file that dsn names, which must be there unless its mode is rwc.
func dial(ctx context.Context, dsn string) (raw, error) {
	c := new(caller)
	dc, err := c.connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	r, ok := dc.(raw)
	if !ok {
		_ = dc.Close()
		c.forget()
		return nil, errors.New("modernc.org/sqlite lacks an interface that this package needs; use the version in go.mod")
	}
	return &patientConn{r, c}, nil
}

// ask runs a query on a connection that nobody else uses and returns its first value.
func ask(ctx context.Context, r raw, query string) (int64, error) {
	rs, err := r.QueryContext(ctx, query, nil)
	if err != nil {
		return 0, err
	}
	var row [1]driver.Value
	err = rs.Next(row[:])
	n, _ := row[0].(int64)
	return n, errors.Join(err, rs.Close())
}

// stmt is a statement, or a text of several, and the rows of its execution.
type stmt struct {
	driver  prepared // nil: a text of several statements, which the driver compiles one by one as they run
	query   string
	effects effect
	kept    bool // in its connection's cache
	vacuum  bool
	rows    rows // in use while rows.in is set
}

// errNUL refuses a text of which SQLite would see only the beginning.
var errNUL = errors.New("a statement's text cannot contain a NUL; bind values that do")

// newStatements returns a cache of prepared statements. One that has to go while it is in use is closed when it is done.
func newStatements(size int) *simplelru.LRU[string, *stmt] {
	cache, _ := simplelru.NewLRU(size, func(_ string, st *stmt) { // it fails for a size below 1
		st.kept = false
		if st.rows.in == nil {
			_ = st.driver.Close()
		}
	})
	return cache
}

// done lets go of a statement that is not in the cache. The caller holds c.mu.
func (st *stmt) done() error {
	if st.kept || st.driver == nil {
		return nil
	}
	return st.driver.Close()
}

// compile returns the statement of a text, from the cache when it is there and free. The caller holds c.mu.
func (c *conn) compile(ctx context.Context, query string) (*stmt, error) {
	cached, hit := c.stmts.Get(query)
	if hit && cached.effects&sharedRead != 0 {
		if err := c.checkSchema(ctx); err != nil {
			return nil, err
		}
		cached, hit = c.stmts.Get(query)
	}
	switch {
	case hit && cached.rows.in == nil:
		return cached, nil
	case strings.IndexByte(query, 0) >= 0:
		return nil, errNUL
	case !hit && !alone(query):
		// It is not known what it does; the authorizer looks at each of its statements as they come.
		if !c.tenant && !namesShared(query) {
			return &stmt{query: query, effects: writes}, nil
		}
		return &stmt{query: query, effects: writes}, c.attach(ctx)
	}
	st, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	if st.effects&sharedRead != 0 && !hit {
		// Compiled by what this connection believes the tenant's tables to be: a table that another connection made
		// since would have to win over the shared one of its name.
		if fresh, err := c.schemaChanged(ctx); err != nil || fresh {
			_ = st.driver.Close()
			if err != nil {
				return nil, err
			}
			return c.compile(ctx, query)
		}
	}
	// A statement in use (nested rows of one text) and one that taints are not worth keeping.
	if !hit && st.effects&taints == 0 {
		st.kept = true
		c.stmts.Add(query, st)
	}
	return st, nil
}

// prepare compiles one statement, with the shared store attached where that may matter: attaching it is a fair part of
// what opening a store costs, and most connections of a store that comes and goes see but a few statements. A name that
// the tenant has is the tenant's whether or not the shared store is attached; one that it has not fails to compile, and is
// compiled again with it. The shared store's own tables all have their names without it, but for one that says public.
func (c *conn) prepare(ctx context.Context, query string) (*stmt, error) {
	text := mainOnly(query)
	if c.tenant && attachFirst(text) {
		if err := c.attach(ctx); err != nil {
			return nil, err
		}
	}
	c.listen()
	ds, err := c.raw.PrepareContext(ctx, text)
	unknown := code(err) == sqlite3.SQLITE_ERROR || err == nil && c.tenant && c.effects&looksUp != 0
	if !c.attached && unknown && (c.tenant || namesShared(text)) {
		// It may mean a shared table.
		if err == nil {
			_ = ds.Close()
		}
		if err := c.attach(ctx); err != nil {
			return nil, err
		}
		c.listen()
		ds, err = c.raw.PrepareContext(ctx, text)
	}
	if err != nil {
		return nil, err
	}
	st := &stmt{query: query, effects: c.effects}
	if keyword(skipBlank(query), "VACUUM") {
		st.effects |= writes // compiled without a word to the authorizer
		st.vacuum = true
	}
	st.driver = ds.(prepared)
	return st, nil
}

// understands reports whether a statement compiles by the tables that the connection has as it is. The caller holds c.mu.
func (c *conn) understands(ctx context.Context, query string) bool {
	c.own = true
	ds, err := c.raw.PrepareContext(ctx, mainOnly(query))
	c.own = false
	if err != nil {
		return code(err) != sqlite3.SQLITE_ERROR // it could not tell
	}
	_ = ds.Close()
	return true
}

// listen has the authorizer note what the next statement does, from the beginning.
func (c *conn) listen() {
	c.effects, c.denied, c.watch = 0, notDenied, variance{}
}

// run executes a statement of this package's own, of which the authorizer is not to know. The caller holds c.mu.
func (c *conn) run(ctx context.Context, query string) error {
	c.own = true
	_, err := c.raw.ExecContext(ctx, query, nil)
	c.own = false
	return err
}

// control executes BEGIN, COMMIT or ROLLBACK. The caller holds c.mu.
func (c *conn) control(ctx context.Context, query string) error {
	effects := c.effects
	st, err := c.compile(ctx, query)
	if err == nil {
		_, err = st.driver.ExecContext(ctx, nil)
	}
	c.effects = effects // SQLite compiles again, and tells the authorizer, whenever it sees fit
	return err
}

// inTransaction asks SQLite whether a transaction is open (what sqlite3_get_autocommit says, which the driver does not
// pass on): PRAGMA synchronous with a value does not compile within one, and for the temporary database it does nothing
// else (pragma.c, PragTyp_SYNCHRONOUS). The caller holds c.mu.
func (c *conn) inTransaction() bool {
	if c.raw == nil {
		return false
	}
	c.own = true
	ds, err := c.raw.PrepareContext(context.Background(), "PRAGMA temp.synchronous=1")
	c.own = false
	if err != nil {
		c.tainted = c.tainted || code(err) != sqlite3.SQLITE_ERROR // it could not tell
		return true
	}
	_ = ds.Close()
	return false
}

// setForeignKeys has foreign keys enforced, or not. It does nothing within a transaction. The caller holds c.mu.
func (c *conn) setForeignKeys(ctx context.Context, on bool) error {
	if c.lenient == !on {
		return nil
	}
	text := "PRAGMA foreign_keys=0"
	if on {
		text = "PRAGMA foreign_keys=1"
	}
	err := c.run(ctx, text)
	if err == nil {
		c.lenient = !on
	}
	return err
}

// number runs a query of this package's own, compiled once, and returns its first value, or io.EOF.
func (c *conn) number(ctx context.Context, query string) (int64, error) {
	effects := c.effects
	st, err := c.compile(ctx, query)
	if err != nil {
		return 0, err
	}
	in, err := st.driver.QueryContext(ctx, nil)
	if err != nil {
		return 0, err
	}
	var dest [1]driver.Value
	err = in.Next(dest[:])
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	c.effects = effects
	n, _ := dest[0].(int64)
	return n, err
}

// usable reports why the connection cannot be used any more. The caller holds c.mu.
func (c *conn) usable(op string) error {
	if err := c.st.fate(); err != nil {
		_ = c.close()
		return &backend.Error{Op: op, Store: c.st.name, Err: err}
	}
	if c.raw == nil {
		return &backend.Error{Op: op, Store: c.st.name, Err: errors.New("the connection was closed")}
	}
	return nil
}

// unlock ends a call on the connection. Whoever lost the store meanwhile waits for it to be closed: also one who came
// between a look at the store's fate and the end of the lock, so that the look comes after it.
func (c *conn) unlock() {
	c.mu.Unlock()
	if c.st.fate() != nil && c.mu.TryLock() { // or somebody else has it, who ends here too
		_ = c.close()
		c.mu.Unlock()
	}
}

// close closes the connection and all that it holds, and empties the rows that are open on it. The caller holds c.mu.
func (c *conn) close() error {
	if c.raw == nil {
		return nil
	}
	for _, r := range c.open {
		_ = r.finish()
	}
	c.open = nil
	c.stmts.Purge()
	err := c.raw.Close()
	c.raw = nil
	c.st.b.descriptors.conns.Add(-1)
	return err
}

// code returns SQLite's extended result code, or 0.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// busy reports whether an error means that somebody else has the file.
func busy(err error) bool {
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}
