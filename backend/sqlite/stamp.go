package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// Every store carries its owner: the only row of its first table, a text of fixed length. It stands on the second page
// of the file, where it is written into the copy of a template before anybody opens that.
const (
	stampMagic  = "tenement owner: "
	maxOwner    = 128
	stampLen    = len(stampMagic) + maxOwner
	stampSchema = "CREATE TABLE " + stampTable + " (owner BLOB NOT NULL)"
)

// encodeStamp returns the row's value for an owner.
func encodeStamp(owner string) ([]byte, error) {
	if len(owner) > maxOwner || strings.ContainsRune(owner, 0) {
		return nil, fmt.Errorf("owner %q: it may have at most %d bytes, none of them NUL", owner, maxOwner)
	}
	stamp := make([]byte, stampLen)
	copy(stamp, stampMagic)
	copy(stamp[len(stampMagic):], owner)
	return stamp, nil
}

// decodeStamp is its inverse. ok is false for anything that encodeStamp did not make.
func decodeStamp(stamp []byte) (owner string, ok bool) {
	if len(stamp) != stampLen || !bytes.HasPrefix(stamp, []byte(stampMagic)) {
		return "", false
	}
	text, padding, _ := bytes.Cut(stamp[len(stampMagic):], []byte{0})
	if len(bytes.Trim(padding, "\x00")) != 0 {
		return "", false
	}
	return string(text), true
}

// askOwner runs settings and returns the owner that the database carries. It returns ErrStoreMissing when it carries none: such a file is not
// this package's, whatever its name. The caller has r to itself.
func askOwner(ctx context.Context, r raw, settings string) (string, error) {
	rs, err := r.QueryContext(ctx, settings+"SELECT owner FROM main."+stampTable+" LIMIT 2", nil)
	if err != nil {
		if code(err) == sqlite3.SQLITE_ERROR { // no such table
			return "", errUnstamped
		}
		return "", err
	}
	defer rs.Close()
	var row [1]driver.Value
	if err := rs.Next(row[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return "", errUnstamped
		}
		return "", err
	}
	stamp, _ := row[0].([]byte)
	owner, ok := decodeStamp(stamp)
	if !ok || rs.Next(row[:]) == nil {
		return "", fmt.Errorf("table %s is damaged: it must have one row, made by this package; restore the file", stampTable)
	}
	return owner, nil
}

// errUnstamped: there is a file of that name, and it is no store.
var errUnstamped = fmt.Errorf("%w: the file of that name has no table %s, so it was not made as a store", backend.ErrStoreMissing, stampTable)

var errOtherOwner = fmt.Errorf("%w: the one of that name belongs to another owner", backend.ErrStoreMissing)

// ownerOf asks a file that this process may or may not have open. SQLite itself does the asking: closing any other
// descriptor of a file drops all locks that the process has on it (POSIX), and another process that then takes itself
// for the last user removes the -wal under the commits that are in it.
func ownerOf(ctx context.Context, path string) (string, error) {
	// This looks at the main file alone and takes no lock, so it does not make a -wal and a -shm beside a file that nobody
	// has open. What it cannot read, and a file that others say more about, is asked for properly.
	if !unsettled(path) {
		owner, err := askFile(ctx, uri(path, "ro")+"&immutable=1&_error_rc=1")
		if err == nil && !unsettled(path) || ctx.Err() != nil {
			return owner, err
		}
	}
	return askFile(ctx, uri(path, "rw")+"&_error_rc=1&_busy_timeout=1000")
}

// unsettled reports whether a file is not what a reader of the database sees: there is a journal, by which something is rolled
// back first whose process died, or a log with what is not in the file yet.
func unsettled(path string) bool {
	for _, ext := range []string{"-journal", "-wal"} {
		if side, err := os.Lstat(path + ext); err == nil && side.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

func askFile(ctx context.Context, dsn string) (string, error) {
	r, err := dial(ctx, dsn)
	if err != nil {
		return "", err
	}
	owner, err := askOwner(ctx, r, "")
	return owner, errors.Join(err, r.Close())
}
