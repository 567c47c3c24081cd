package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// emptyTemplate is the key of the template that Create uses. Those of CreateFrom begin with "t/".
const emptyTemplate = "empty/1"

// templates are those that this process has used.
type templates struct {
	mu sync.Mutex
	m  map[string]*template
}

func (t *templates) get(key string) *template {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[key]
}

func (t *templates) put(key string, tpl *template) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]*template{}
	}
	t.m[key] = tpl
}

func (t *templates) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, key)
}

// template is a whole store in one file, without an owner, that nobody ever opens.
type template struct {
	path  string
	stamp int64 // where the owner goes
}

func (b *Backend) templateDir() string { return filepath.Join(b.dir, "templates") }

// template returns the template of a key, from this process, from the disk, or built now.
func (b *Backend) template(ctx context.Context, key string, build func(ctx context.Context, db *sql.DB) error) (*template, error) {
	if t := b.templates.get(key); t != nil {
		return t, nil
	}
	sum := sha256.Sum256([]byte(key))
	name := hexName(sum[:])
	unlock, err := b.lock(ctx, templateKey(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t := b.templates.get(key); t != nil {
		return t, nil
	}
	path := filepath.Join(b.templateDir(), name+storeExt)
	t, err := readTemplate(ctx, path)
	if err != nil {
		return nil, err
	}
	if t == nil {
		if err := b.buildTemplate(ctx, name, path, build); err != nil {
			return nil, err
		}
		if t, err = readTemplate(ctx, path); err != nil {
			return nil, err
		}
		if t == nil {
			return nil, errors.New("the template that was just built is not a whole store; does build replace the file?")
		}
	} else {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // tells Leftovers of other processes that it is in use
	}
	b.templates.put(key, t)
	return t, nil
}

func templateKey(name string) string { return "template/" + name }

// readTemplate returns the template at path, or nil when there is none that is whole. What is there and is not whole (a
// disk that lied about fsync) is built again.
func readTemplate(ctx context.Context, path string) (*template, error) {
	offset, err := blankStamp(path)
	if err != nil || offset == 0 {
		return nil, err
	}
	// immutable: the file is looked at without making -wal and -shm beside it.
	r, err := dial(ctx, uri(path, "ro")+"&immutable=1&_error_rc=1")
	if err != nil {
		return nil, nil
	}
	defer r.Close()
	if n, err := ask(ctx, r, "SELECT count(*) FROM pragma_quick_check WHERE quick_check <> 'ok'"); err != nil || n != 0 {
		return nil, ctx.Err()
	}
	return &template{path: path, stamp: offset}, nil
}

// What the file format says (https://www.sqlite.org/fileformat.html).
const (
	fileMagic     = "SQLite format 3\x00"
	headerLen     = 100
	tableLeafPage = 0x0d
)

// blankStamp returns where the stamp of a template stands, or 0 when the file is none that is whole. It reads the file
// itself, which only a file that nobody ever has open as a database can stand; see [ownerOf].
func blankStamp(path string) (int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, headerLen)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf[:len(fileMagic)]) != fileMagic {
		return 0, nil
	}
	wal := buf[18] == 2 && buf[19] == 2
	size := int64(binary.BigEndian.Uint16(buf[16:]))
	if size == 1 {
		size = 65536
	}
	page := make([]byte, size)
	if _, err := f.ReadAt(page, size); err != nil || !wal || size < 512 {
		return 0, nil
	}
	at := bytes.Index(page, []byte(stampMagic))
	if page[0] != tableLeafPage || binary.BigEndian.Uint16(page[3:]) != 1 || at < 0 || at+stampLen > len(page) {
		return 0, nil
	}
	if owner, ok := decodeStamp(page[at : at+stampLen]); !ok || owner != "" {
		return 0, nil
	}
	return size + int64(at), nil
}

// buildTemplate has a template made in a temporary file and puts it in its place when it is whole and on disk.
func (b *Backend) buildTemplate(ctx context.Context, name, path string, build func(ctx context.Context, db *sql.DB) error) error {
	temp := filepath.Join(b.templateDir(), "."+name+tempExt)
	clear := func() error { return errors.Join(remove(temp), removeSideFiles(temp)) }
	if err := clear(); err != nil { // of a build that died; the lock says that it is not under way
		return err
	}
	err := b.fillTemplate(ctx, temp, build)
	if err == nil {
		err = b.fold(ctx, temp)
	}
	if err == nil {
		err = b.finishTemplate(ctx, temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		return syncDir(b.templateDir())
	}
	_ = clear()
	return err
}

// fillTemplate makes the file and runs build on it.
func (b *Backend) fillTemplate(ctx context.Context, temp string, build func(ctx context.Context, db *sql.DB) error) error {
	r, err := dial(ctx, uri(temp, "rwc")+"&_error_rc=1&_pragma=synchronous(OFF)")
	if err != nil {
		return err
	}
	stamp, err := encodeStamp("")
	if err == nil {
		_, err = r.ExecContext(ctx, fmt.Sprintf("PRAGMA journal_mode=WAL; BEGIN; %s; INSERT INTO %s VALUES (x'%x'); COMMIT",
			stampSchema, stampTable, stamp), nil)
	}
	if err = errors.Join(err, r.Close()); err != nil || build == nil {
		return err
	}
	st := b.newStore(backend.Store{}, temp)
	opts := b.opts
	opts.Synchronous = Off // it is synced once, when it is whole
	st.setup = opts.settings()
	st.refs = 1 // keeps its connections between two calls of build
	defer st.seize(errors.New("the template is finished"))
	db := driver.OpenDB(storeSource{b, st}, backend.Route{}, driver.AccessMaintenance)
	return errors.Join(build(ctx, db), db.Close())
}

// storeSource gives out sessions on one store that is in no map.
type storeSource struct {
	*Backend
	st *store
}

func (s storeSource) Session(context.Context, backend.Route, driver.Access) (driver.Session, error) {
	if err := s.st.fate(); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	s.mu.Lock()
	s.st.refs++
	s.mu.Unlock()
	ses := sessions.Get().(*session)
	ses.b, ses.st = s.Backend, s.st
	return ses, nil
}

// finishTemplate sets the mode in which stores work, which the file keeps, and syncs the file.
func (b *Backend) finishTemplate(ctx context.Context, temp string) error {
	r, err := dial(ctx, uri(temp, "rw")+"&_error_rc=1")
	if err != nil {
		return err
	}
	_, err = r.ExecContext(ctx, "PRAGMA journal_mode=WAL", nil)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if err := removeSideFiles(temp); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// copyTo makes a store of the template: the copy with an owner in it, on disk.
func (t *template) copyTo(path string, stamp []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyFile(f, t.path)
	if err == nil {
		_, err = f.WriteAt(stamp, t.stamp)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
