package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"
)

// Every store carries its owner: the only row of its first table, a text of fixed length. It stands on the second page
// of the file, where it can be read without opening a database, and written into the copy of a template.
const (
	stampMagic  = "tenement owner: "
	maxOwner    = 128
	stampLen    = len(stampMagic) + maxOwner
	stampSchema = "CREATE TABLE " + stampTable + " (owner BLOB NOT NULL)"

	// What the file format says (https://www.sqlite.org/fileformat.html).
	fileMagic     = "SQLite format 3\x00"
	headerLen     = 100
	tableLeafPage = 0x0d
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

// head is what the first two pages of a store tell.
type head struct {
	wal    bool // the file is in WAL mode
	found  bool // the stamp is where it was put
	owner  string
	offset int64 // of the stamp
}

// readHead reads a store's first two pages. A file that is not as this package makes them is no error: found is false.
func readHead(path string) (head, error) {
	f, err := os.Open(path)
	if err != nil {
		return head{}, err
	}
	defer f.Close()
	buf := make([]byte, 2*4096) // enough for SQLite's usual page size
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return head{}, err
	}
	buf = buf[:n]
	if len(buf) < headerLen || string(buf[:len(fileMagic)]) != fileMagic {
		return head{}, nil
	}
	h := head{wal: buf[18] == 2 && buf[19] == 2}
	size := int(binary.BigEndian.Uint16(buf[16:]))
	if size == 1 {
		size = 65536
	}
	if size > 4096 {
		buf = make([]byte, 2*size)
		if _, err := f.ReadAt(buf, 0); err != nil {
			return h, nil
		}
	}
	if len(buf) < 2*size || size < 512 {
		return h, nil
	}
	page := buf[size : 2*size]
	at := bytes.Index(page, []byte(stampMagic))
	if page[0] != tableLeafPage || binary.BigEndian.Uint16(page[3:]) != 1 || at < 0 || at+stampLen > len(page) {
		return h, nil
	}
	h.owner, h.found = decodeStamp(page[at : at+stampLen])
	h.offset = int64(size + at)
	return h, nil
}

// readStamp asks the database for the owner, where the first pages were not as expected (another page size, a file
// rebuilt by other means). A store without a stamp has no owner.
func (c *conn) readStamp(ctx context.Context) (string, error) {
	rs, err := c.raw.QueryContext(ctx, "SELECT owner FROM main."+stampTable+" LIMIT 2", nil)
	if err != nil {
		if code(err) == sqlite3.SQLITE_ERROR { // no such table
			return "", nil
		}
		return "", err
	}
	defer rs.Close()
	var row [1]driver.Value
	if err := rs.Next(row[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return "", nil
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
