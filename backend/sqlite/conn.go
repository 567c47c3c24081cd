package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// raw is what the driver underneath gives: everything this package uses of it.
type raw interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Validator
	sqlite.AuthorizerRegisterer
}

// conn is a real connection to one store. One unit of work uses it at a time; Drop, Rename and Close may take it away
// between two of that unit's calls, which is what mu is for.
type conn struct {
	st     *store
	tenant bool // not the shared store's own

	mu    sync.Mutex // held during each call into SQLite
	raw   raw        // nil: closed
	stmts map[string]*stmt
	open  []*rows // those not closed yet
	clock uint64  // counts uses of statements, to find the one unused for longest

	// What the authorizer saw, and how it is to judge. Only touched by the goroutine that is in SQLite.
	effects  effect
	denied   denial
	readOnly bool // within a read-only transaction
	script   bool // within a script, which has no business with transactions of its own
	vacuum   bool // a VACUUM runs, alone

	attached  bool // the shared store is
	attaching bool

	tainted bool  // not to be used by anyone else
	schema  int64 // the tenant's schema version that the statements which read shared tables were compiled for
}

// dsn returns the driver's name for the file at path.
func dsn(path, mode string) string { return uri(path, mode) + "&_error_rc=1&_defensive=1" }

// settings returns the text that readies a connection. It is cheaper than parameters of the DSN, which the driver parses
// several times over.
func (o Options) settings() string {
	return "PRAGMA busy_timeout=" + strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10) +
		"; PRAGMA trusted_schema=0; PRAGMA foreign_keys=1; PRAGMA cache_size=-" + strconv.Itoa(o.CacheSize) +
		"; PRAGMA synchronous=" + string(o.Synchronous)
}

// uri returns SQLite's URI for an absolute path.
func uri(path, mode string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/data
	}
	return (&url.URL{Scheme: "file", Path: path}).String() + "?mode=" + mode
}

// dial opens a connection to the file at path, which must be there unless mode is rwc.
func dial(ctx context.Context, dsn string) (raw, error) {
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	dc, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	r, ok := dc.(raw)
	if !ok {
		_ = dc.Close()
		return nil, errors.New("modernc.org/sqlite lacks an interface that this package needs; use the version in go.mod")
	}
	return r, nil
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

// stmt is a prepared statement in a connection's cache, and the rows of its execution.
type stmt struct {
	driver interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
	}
	query   string
	effects effect
	used    uint64
	cached  bool
	vacuum  bool
	rows    rows // in use while rows.in is set
}

// alone reports whether query is one statement at most. A semicolon with something after it counts as a second one,
// wherever it stands; only literals and comments are skipped. When in doubt the answer is no.
func alone(query string) bool {
	for i := 0; i < len(query); i++ {
		switch c := query[i]; c {
		case '\'', '"', '`':
			end := strings.IndexByte(query[i+1:], c)
			if end < 0 {
				return false
			}
			i += 1 + end
		case '[':
			end := strings.IndexByte(query[i+1:], ']')
			if end < 0 {
				return false
			}
			i += 1 + end
		case '-', '/':
			if n := commentLen(query[i:]); n > 0 {
				i += n - 1
			}
		case '$', '@', ':', '#':
			// A parameter may be named $a(…), and what is within the parentheses is no literal, whatever it looks like.
			for i+1 < len(query) && (query[i+1] == ':' || query[i+1] == '$' || query[i+1] >= 0x80 || isNameByte(query[i+1])) {
				i++
			}
			if i+1 < len(query) && query[i+1] == '(' {
				return false
			}
		case ';':
			return skipBlank(query[i+1:]) == ""
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_'
}

// commentLen returns the length of the comment that s begins with, or 0.
func commentLen(s string) int {
	switch {
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return end + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		if end := strings.Index(s[2:], "*/"); end >= 0 {
			return end + 4
		}
		return len(s)
	}
	return 0
}

// skipBlank returns s without the white space, comments and semicolons it begins with.
func skipBlank(s string) string {
	for s != "" {
		switch s[0] {
		case ' ', '\t', '\n', '\r', '\f', ';':
			s = s[1:]
		default:
			n := commentLen(s)
			if n == 0 {
				return s
			}
			s = s[n:]
		}
	}
	return s
}

// keyword reports whether s begins with word (in upper case) and no longer one.
func keyword(s, word string) bool {
	if len(s) < len(word) || !strings.EqualFold(s[:len(word)], word) {
		return false
	}
	if len(s) == len(word) {
		return true
	}
	c := s[len(word)] | 0x20
	return !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && s[len(word)] != '_'
}

// likelyWrite guesses from the first letter whether a statement writes. A wrong guess costs a detour, nothing else.
func likelyWrite(query string) bool {
	query = skipBlank(query)
	if query == "" {
		return false
	}
	switch query[0] | 0x20 {
	case 'i', 'u', 'd', 'r', 'c', 'a', 'b': // INSERT, UPDATE, DELETE, DROP, REPLACE, CREATE, ALTER, BEGIN, …
		return true
	}
	return false
}

// prepare returns the statement of a text that is a single one, from the cache when it is there and free. The caller
// holds c.mu.
func (c *conn) prepare(ctx context.Context, query string) (*stmt, error) {
	c.clock++
	cached := c.stmts[query]
	if cached != nil && cached.rows.in == nil {
		if cached.effects&sharedRead == 0 {
			cached.used = c.clock
			return cached, nil
		}
		if err := c.checkSchema(ctx); err != nil {
			return nil, err
		}
		if cached = c.stmts[query]; cached != nil {
			cached.used = c.clock
			return cached, nil
		}
	}
	if !c.attached && attachFirst(query) {
		if err := c.attach(ctx); err != nil {
			return nil, err
		}
	}
	c.effects, c.denied = 0, notDenied
	ds, err := c.raw.PrepareContext(ctx, query)
	if !c.attached && (code(err) == sqlite3.SQLITE_ERROR || (err == nil && c.effects&looksUp != 0)) {
		// It may mean a shared table.
		if err == nil {
			_ = ds.Close()
		}
		if err := c.attach(ctx); err != nil {
			return nil, err
		}
		c.effects, c.denied = 0, notDenied
		ds, err = c.raw.PrepareContext(ctx, query)
	}
	if err != nil {
		return nil, err
	}
	st := &stmt{query: query, effects: c.effects, used: c.clock}
	if keyword(skipBlank(query), "VACUUM") {
		st.effects |= writes // compiled without a word to the authorizer
		st.vacuum = true
	}
	st.driver = ds.(interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
	})
	if st.effects&sharedRead != 0 && cached == nil {
		// Compiled by what this connection believes the tenant's tables to be: a table that another connection made
		// since would have to win over the shared one of its name.
		if fresh, err := c.schemaChanged(ctx); err != nil || fresh {
			_ = ds.Close()
			if err != nil {
				return nil, err
			}
			return c.prepare(ctx, query)
		}
	}
	// A statement in use (nested rows of one text) and one that taints are not worth keeping.
	if cached == nil && st.effects&taints == 0 {
		c.keep(st)
	}
	return st, nil
}

// attach attaches the shared store. It is put off until a statement needs it, since it is a fair part of what opening a
// store costs, and most connections of a store that comes and goes see but a few statements. A name that the tenant has
// is the tenant's whether or not the shared store is attached; one that it has not fails to compile, and is compiled
// again with it.
func (c *conn) attach(ctx context.Context) error {
	saved := c.effects
	c.attaching = true
	_, err := c.raw.ExecContext(ctx, c.st.b.attach, nil)
	c.attaching, c.effects, c.denied = false, saved, notDenied
	if err != nil {
		return err
	}
	c.attached = true
	return nil
}

// attachFirst reports whether a statement does something else, rather than fail, where a name is unknown: DROP … IF EXISTS,
// and ANALYZE.
func attachFirst(query string) bool {
	query = skipBlank(query)
	return keyword(query, "DROP") || keyword(query, "ANALYZE") || keyword(query, "EXPLAIN")
}

// schemaProbe makes SQLite compare the schema it has in memory with the file's, which it does for the files that a
// statement reads only.
const (
	schemaVersion = "PRAGMA main.schema_version"
	schemaProbe   = "SELECT 1 FROM main.sqlite_schema LIMIT 0"
)

// schemaChanged reports whether the tenant's schema is another than when it was last asked, and has SQLite read it
// again if so.
func (c *conn) schemaChanged(ctx context.Context) (bool, error) {
	saved := c.effects
	defer func() { c.effects = saved }()
	version, err := c.number(ctx, schemaVersion)
	if err != nil || version == c.schema {
		return false, err
	}
	if _, err := c.number(ctx, schemaProbe); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	c.schema = version
	return true, nil
}

// checkSchema forgets the statements that read shared tables when the tenant's schema changed.
func (c *conn) checkSchema(ctx context.Context) error {
	changed, err := c.schemaChanged(ctx)
	if err != nil || !changed {
		return err
	}
	for query, st := range c.stmts {
		if st.effects&sharedRead != 0 && st.rows.in == nil {
			_ = st.driver.Close()
			delete(c.stmts, query)
		}
	}
	return nil
}

// number runs a query of this package's own and returns its first value, or io.EOF.
func (c *conn) number(ctx context.Context, query string) (int64, error) {
	st, err := c.prepare(ctx, query)
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
	n, _ := dest[0].(int64)
	return n, err
}

// keep puts a statement into the cache, at the cost of the one unused for longest when it is full.
func (c *conn) keep(st *stmt) {
	if len(c.stmts) >= c.st.b.opts.Statements {
		var oldest *stmt
		for _, s := range c.stmts {
			if s.rows.in == nil && (oldest == nil || s.used < oldest.used) {
				oldest = s
			}
		}
		if oldest == nil {
			return
		}
		_ = oldest.driver.Close()
		delete(c.stmts, oldest.query)
	}
	st.cached = true
	c.stmts[st.query] = st
}

// done lets go of a statement that is not in the cache.
func (st *stmt) done() error {
	if st.cached {
		return nil
	}
	return st.driver.Close()
}

// run executes a statement of this package's own (BEGIN, COMMIT, …). The caller holds c.mu.
func (c *conn) run(ctx context.Context, query string) error {
	st, err := c.prepareOwn(ctx, query)
	if err != nil {
		return err
	}
	saved := c.effects
	_, err = st.driver.ExecContext(ctx, nil)
	c.effects = saved // SQLite compiles again, and tells the authorizer, whenever it sees fit
	return err
}

// prepareOwn is prepare for statements whose effects are ours to know, so that they are cached whatever they do.
func (c *conn) prepareOwn(ctx context.Context, query string) (*stmt, error) {
	if st := c.stmts[query]; st != nil {
		c.clock++
		st.used = c.clock
		return st, nil
	}
	saved, script := c.effects, c.script
	c.script = false
	st, err := c.prepare(ctx, query)
	c.effects, c.script = saved, script
	if err != nil {
		return nil, err
	}
	if !st.cached {
		c.keep(st)
	}
	return st, nil
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
	for _, st := range c.stmts {
		_ = st.driver.Close()
	}
	c.stmts = nil
	err := c.raw.Close()
	c.raw = nil
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

// rows are the rows of one execution. They live in their statement, so that reading costs no allocation more.
type rows struct {
	in   driver.Rows // nil: closed
	s    *session
	c    *conn
	st   *stmt // nil: of a text with several statements
	turn bool  // the writer's turn is given back with them
}

var (
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
)

func (r *rows) Columns() []string {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.in == nil {
		return nil
	}
	return r.in.Columns()
}

func (r *rows) Next(dest []driver.Value) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if err := r.c.usable("query"); err != nil {
		return err
	}
	if r.in == nil {
		return io.EOF
	}
	if err := r.in.Next(dest); err != nil {
		if err == io.EOF {
			return err
		}
		return r.s.failed("query", err)
	}
	for i := range dest {
		// The driver makes no difference between no bytes and NULL.
		if v, ok := dest[i].([]byte); ok && v == nil {
			dest[i] = []byte{}
		}
	}
	return nil
}

// finish closes the rows underneath. The caller holds c.mu.
func (r *rows) finish() error {
	in := r.in
	if in == nil {
		return nil
	}
	r.in = nil
	err := in.Close()
	if r.st != nil {
		err = errors.Join(err, r.st.done())
	}
	return err
}

func (r *rows) Close() error {
	r.c.mu.Lock()
	err := r.finish()
	if i := slices.Index(r.c.open, r); i >= 0 {
		r.c.open = slices.Delete(r.c.open, i, i+1)
	}
	if err != nil {
		err = r.s.explain("query", err)
	}
	r.s.noteEffects()
	r.c.mu.Unlock()
	if r.turn {
		r.turn = false
		r.s.endTurn()
		if err == nil {
			err = r.s.st.stillThere("query")
		}
	}
	return err
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if in, ok := r.in.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return in.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r *rows) ColumnTypeLength(i int) (int64, bool) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if in, ok := r.in.(driver.RowsColumnTypeLength); ok {
		return in.ColumnTypeLength(i)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if in, ok := r.in.(driver.RowsColumnTypeNullable); ok {
		return in.ColumnTypeNullable(i)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if in, ok := r.in.(driver.RowsColumnTypePrecisionScale); ok {
		return in.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}

func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if in, ok := r.in.(driver.RowsColumnTypeScanType); ok {
		return in.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}

// busy reports whether an error means that somebody else has the file.
func busy(err error) bool {
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}
