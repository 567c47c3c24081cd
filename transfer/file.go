package transfer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/internal/durable"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// applicationID is in the header of the files, where the program file(1) finds it: "Tnmt".
const applicationID = 0x546e6d74

// fileSchema are the tables beside the tenant's own.
const fileSchema = `
	CREATE TABLE tenement_seal (sha256 TEXT NOT NULL);
	CREATE TABLE tenement_manifest (manifest TEXT NOT NULL, sha256 TEXT NOT NULL);
	CREATE TABLE tenement_files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, mode INTEGER NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL);
	CREATE TABLE tenement_pieces (file INTEGER NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (file, piece)) WITHOUT ROWID;`

// fileWriter makes a file, which has its name when it is whole.
type fileWriter struct {
	path, temp string
	db         *sql.DB
	conn       *sql.Conn
	tx         *sql.Tx
	mark       string // where the seal is to be
}

func dsn(path, query string) string {
	return "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() + "?" + query
}

// openSQLiteFile opens a file by the driver that package backend/sqlite links: an application whose tenants never are in
// files does without it.
func openSQLiteFile(dsn string) (*sql.DB, error) {
	if !slices.Contains(sql.Drivers(), "sqlite") {
		return nil, fmt.Errorf("%w: import _ \"github.com/tenement-go/tenement/backend/sqlite\"", ErrNoSQLite)
	}
	return sql.Open("sqlite", dsn)
}

// createFile begins a file. The caller calls finish or abandon.
func createFile(ctx context.Context, path string) (w *fileWriter, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, &FileError{Path: path, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	w = &fileWriter{path: path, temp: path + "." + strings.ToLower(rand.Text()[:8]) + ".partial"}
	f, err := os.OpenFile(w.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// Nobody else sees the file before it is whole, so nothing need be undone in it, and it is synced once.
	if w.db, err = openSQLiteFile(dsn(w.temp, "mode=rw&_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=cache_size(-1024)")); err == nil {
		w.db.SetMaxOpenConns(1)
		_, err = w.db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d; %s", applicationID, Format, fileSchema))
	}
	if err == nil {
		w.conn, err = w.db.Conn(ctx)
	}
	if err == nil {
		w.tx, err = w.conn.BeginTx(ctx, nil)
	}
	if err != nil {
		return nil, errors.Join(err, w.abandon())
	}
	return w, nil
}

// abandon removes what was written.
func (w *fileWriter) abandon() error {
	if w.tx != nil {
		_ = w.tx.Rollback()
	}
	err := w.close()
	if rerr := os.Remove(w.temp); !errors.Is(rerr, fs.ErrNotExist) { // it may have had its name already
		err = errors.Join(err, rerr)
	}
	return err
}

// close closes the database. It may be called more than once.
func (w *fileWriter) close() (err error) {
	if w.conn != nil {
		err = w.conn.Close()
		w.conn = nil
	}
	if w.db != nil {
		err = errors.Join(err, w.db.Close())
	}
	return err
}

// finish writes the manifest, and gives the file its name.
func (w *fileWriter) finish(ctx context.Context, m *Manifest) error {
	err := w.seal(ctx, m)
	if err == nil {
		err = w.publish()
	}
	if err != nil {
		return errors.Join(err, w.abandon())
	}
	return nil
}

func (w *fileWriter) seal(ctx context.Context, m *Manifest) error {
	text, err := m.encode()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	if _, err := w.tx.ExecContext(ctx, "INSERT INTO tenement_manifest VALUES ($1, $2)", string(text), hex.EncodeToString(sum[:])); err != nil {
		return err
	}
	w.mark = newMark()
	if _, err := w.tx.ExecContext(ctx, "INSERT INTO tenement_seal VALUES ($1)", w.mark); err != nil {
		return err
	}
	return w.tx.Commit()
}

func (w *fileWriter) publish() error {
	if err := w.close(); err != nil {
		return err
	}
	f, err := os.OpenFile(w.temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(sealFile(f, w.mark), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := w.rename(); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(w.path)); err != nil {
		return errors.Join(err, os.Remove(w.path))
	}
	return nil
}

// rename gives the file its name, when nothing else has it: that of another process may have got it meanwhile, and
// os.Rename would replace that.
func (w *fileWriter) rename() error {
	err := os.Link(w.temp, w.path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return &FileError{Path: w.path, Err: fs.ErrExist}
	case err != nil:
		return w.renameReserved()
	}
	if err := os.Remove(w.temp); err != nil {
		return errors.Join(err, os.Remove(w.path))
	}
	return nil
}

// renameReserved is rename for a file system without links: a process that dies in it leaves an empty file.
func (w *fileWriter) renameReserved() error {
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &FileError{Path: w.path, Err: fs.ErrExist}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Rename(w.temp, w.path)); err != nil {
		return errors.Join(err, os.Remove(w.path))
	}
	return nil
}

// table makes a table of the file. The columns have no type, so that SQLite keeps values as they are.
func (w *fileWriter) table(ctx context.Context, t Table) (name string, columns []Column, err error) {
	name, columns = t.stored()
	if len(columns) > 0 {
		_, err = w.tx.ExecContext(ctx, "CREATE TABLE "+sqltext.Quote(name)+" ("+quoted(columns, "")+")")
	}
	return name, columns, err
}

// File is a tenant in a file, open to be read. It is not safe for concurrent use.
type File struct {
	Manifest Manifest

	path string
	db   *sql.DB
}

// Open opens a file that Export wrote. It returns a [*FileError]: that wraps ErrNotTransferFile for another file, ErrFormat
// for one that a later version wrote, ErrDamaged for one that was cut short or changed, as far as can be seen without
// reading its rows; Import and Verify see the rest. The caller closes it.
func Open(ctx context.Context, path string) (*File, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// immutable: nothing is made beside the file, which may be where nothing can be written.
	db, err := openSQLiteFile(dsn(path, "mode=ro&immutable=1&_pragma=query_only(1)&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	f := &File{path: path, db: db}
	if err := f.read(ctx); err != nil {
		return nil, errors.Join(f.fault(&readError{err}), db.Close())
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.db.Close() }

func (f *File) read(ctx context.Context) error {
	var id, format int64
	if err := f.db.QueryRowContext(ctx, "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version").Scan(&id, &format); err != nil {
		return err
	}
	switch {
	case id != applicationID:
		return &FileError{Err: ErrNotTransferFile, Detail: "it is a SQLite database of another kind"}
	case format > Format:
		return &FileError{Err: ErrFormat, Detail: fmt.Sprintf("format %d; this program reads up to %d", format, Format)}
	}
	if err := f.tablesOnly(ctx); err != nil {
		return err
	}
	var text, want string
	err := f.db.QueryRowContext(ctx, "SELECT manifest, sha256 FROM tenement_manifest").Scan(&text, &want)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if sum := sha256.Sum256([]byte(text)); hex.EncodeToString(sum[:]) != want {
		return &FileError{Err: ErrDamaged, Detail: "its manifest was changed"}
	}
	if err := json.Unmarshal([]byte(text), &f.Manifest); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := f.Manifest.check(); err != nil {
		return &FileError{Err: ErrDamaged, Detail: err.Error()}
	}
	return nil
}

// tablesOnly refuses a file with what would be worked out when it is read: views, virtual tables, generated columns. The text of
// the schema is looked at first, since to be asked of a virtual table SQLite would have to open it.
func (f *File) tablesOnly(ctx context.Context) error {
	for _, query := range []string{
		"SELECT name FROM sqlite_schema WHERE sql NOT LIKE 'CREATE TABLE %'",
		"SELECT l.name || '.' || x.name FROM pragma_table_list l JOIN pragma_table_xinfo(l.name, l.schema) x WHERE l.schema = 'main' AND (l.type <> 'table' OR x.hidden <> 0)",
	} {
		var name string
		switch err := f.db.QueryRowContext(ctx, query).Scan(&name); {
		case err == nil:
			return &FileError{Err: ErrDamaged, Detail: name + " is no table, or no column, of values"}
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
	}
	return nil
}

// readError is one of reading a file, rather than of what becomes of its rows.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// fault says what an error means for the file.
func (f *File) fault(err error) error {
	var own *FileError
	var read *readError
	code, isDriver := 0, false
	if errors.As(err, &read) {
		code, isDriver = sqliteCode(read.err)
	}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		own.Path = f.path
		return own
	case isDriver && code == sqliteNotADB:
		return &FileError{Path: f.path, Err: ErrNotTransferFile, Detail: "it is no SQLite database"}
	case isDriver && fileFaults[code], errors.Is(err, ErrDamaged):
		return &FileError{Path: f.path, Err: ErrDamaged, Detail: err.Error()}
	}
	return err
}

// SQLite's result codes: https://www.sqlite.org/rescode.html.
const (
	sqliteError      = 1
	sqliteIOErr      = 10
	sqliteCorrupt    = 11
	sqliteConstraint = 19
	sqliteMismatch   = 20
	sqliteNotADB     = 26
)

// fileFaults are SQLite's words for a file that is not what it was: pages, tables or columns are missing.
var fileFaults = map[int]bool{sqliteCorrupt: true, sqliteError: true, sqliteIOErr: true}

// sqliteCode is the primary code of an error of SQLite's driver.
func sqliteCode(err error) (code int, ok bool) {
	var coded interface{ Code() int }
	if !errors.As(err, &coded) {
		return 0, false
	}
	return coded.Code() & 0xff, true
}

// reader reads the rows.
func (f *File) reader() *sqliteReader {
	return &sqliteReader{q: f.db, list: f.Manifest.Tables, series: f.Manifest.Sequences, stored: true}
}

// plans sees to it that the rows are those that were written.
func (f *File) expect(plans []*tablePlan) {
	for _, p := range plans {
		p.as, p.expect = types(p.source), p.from.Hash
	}
}
