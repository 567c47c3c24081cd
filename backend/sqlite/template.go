package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/durable"
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
	path   string
	stamp  int64 // where the owner goes
	direct bool  // there is none: what build does varies, so it is done for each store
}

func (b *Backend) templateDir() string { return filepath.Join(b.dir, "templates") }

// buildFunc fills a store; see [backend.Templater].
type buildFunc = func(ctx context.Context, db *sql.DB) error

// plant makes the file of a new store at temp: a copy of the template of a key, which comes from this process, from the
// disk, or is built now.
func (b *Backend) plant(ctx context.Context, key string, build buildFunc, temp string, stamp []byte) error {
	if t := b.templates.get(key); t != nil {
		err := b.use(ctx, t, build, temp, stamp)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b.templates.forget(key) // somebody swept the templates: it is built again
	}
	sum := sha256.Sum256([]byte(key))
	name := hexName(sum[:])
	unlock, err := b.lock(ctx, templateKey(name))
	if err != nil {
		return err
	}
	defer unlock()
	t := b.templates.get(key)
	if t == nil {
		if t, err = b.findTemplate(ctx, name, build); err != nil {
			return err
		}
		if t.direct {
			defer b.clearBuild(t.path)
			b.templates.put(key, &template{direct: true})
			return t.copyTo(temp, stamp) // what was built is good for one
		}
		b.templates.put(key, t)
	}
	return b.use(ctx, t, build, temp, stamp)
}

// use makes a store of the template.
func (b *Backend) use(ctx context.Context, t *template, build buildFunc, temp string, stamp []byte) error {
	if !t.direct {
		return b.withDescriptors(ctx, func() error { return t.copyTo(temp, stamp) })
	}
	if _, err := b.buildFile(ctx, temp, build); err != nil {
		b.clearBuild(temp)
		return err
	}
	at, err := blankStamp(temp)
	if err != nil || at == 0 {
		return errors.Join(errNotWhole, err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(stamp, at)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

var errNotWhole = errors.New("the template that was just built is not a whole store; does build replace the file?")

// findTemplate returns the template of a name from the disk, or builds it. The caller holds its lock.
func (b *Backend) findTemplate(ctx context.Context, name string, build buildFunc) (*template, error) {
	path := filepath.Join(b.templateDir(), name+storeExt)
	t, err := readTemplate(ctx, path)
	if err != nil {
		return nil, err
	}
	if t != nil {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // tells Leftovers of other processes that it is in use
		return t, nil
	}
	temp := filepath.Join(b.templateDir(), "."+name+tempExt)
	b.clearBuild(temp) // of a build that died; the lock says that it is not under way
	varies, err := b.buildFile(ctx, temp, build)
	if err != nil {
		b.clearBuild(temp)
		return nil, err
	}
	at := path
	if varies {
		at = temp
	} else if err = os.Rename(temp, path); err == nil {
		err = durable.SyncDir(b.templateDir())
	}
	if err != nil {
		b.clearBuild(temp)
		return nil, err
	}
	if t, err = readTemplate(ctx, at); err == nil && t == nil {
		err = errNotWhole
	}
	if err != nil {
		return nil, err
	}
	t.direct = varies
	return t, nil
}

func (b *Backend) clearBuild(temp string) { _ = errors.Join(remove(temp), removeSideFiles(temp)) }

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

// buildFile makes a whole store without an owner at temp and puts it on disk. varies says that it may be kept for no other
// store: what was done to it depends on the time, on chance, or on rows of shared tables.
func (b *Backend) buildFile(ctx context.Context, temp string, build buildFunc) (varies bool, err error) {
	varies, err = b.fillTemplate(ctx, temp, build)
	if err == nil {
		err = b.fold(ctx, temp)
	}
	if err == nil {
		err = b.finishTemplate(ctx, temp)
	}
	return varies, err
}

// fillTemplate makes the file and runs build on it.
func (b *Backend) fillTemplate(ctx context.Context, temp string, build buildFunc) (varies bool, err error) {
	r, err := dial(ctx, uri(temp, "rwc")+"&_error_rc=1&_pragma=synchronous(OFF)")
	if err != nil {
		return false, err
	}
	stamp, err := encodeStamp("")
	if err == nil {
		_, err = r.ExecContext(ctx, fmt.Sprintf("PRAGMA journal_mode=WAL; BEGIN; %s; INSERT INTO %s VALUES (x'%x'); COMMIT",
			stampSchema, stampTable, stamp), nil)
	}
	if err = errors.Join(err, r.Close()); err != nil || build == nil {
		return false, err
	}
	st := b.newStore(backend.Store{}, temp)
	cfg := b.cfg
	cfg.Synchronous = Off // it is synced once, when it is whole
	st.setup = cfg.settings()
	st.seen = new(witness)
	defer st.lose(errors.New("the template is finished"))
	db := driver.OpenDB(storeSource{b, st}, backend.Route{}, driver.AccessMaintenance)
	err = errors.Join(build(ctx, db), db.Close())
	return st.seen.varies.Load(), err
}

// storeSource gives out sessions on one store that is not on the shelf.
type storeSource struct {
	*Backend
	st *store
}

func (s storeSource) Session(context.Context, backend.Route, driver.Access) (driver.Session, error) {
	if err := s.st.fate(); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	ses := sessions.Get().(*session)
	ses.b, ses.st, ses.upkeep = s.Backend, s.st, true
	return ses, nil
}

// finishTemplate sets the mode in which stores work, which the file keeps, and syncs the file.
func (b *Backend) finishTemplate(ctx context.Context, temp string) error {
	if err := execOnce(ctx, temp, "PRAGMA journal_mode=WAL"); err != nil {
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
	if err = errors.Join(err, f.Close()); err != nil {
		_ = remove(path)
	}
	return err
}
