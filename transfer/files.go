package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// pieceSize is how much of a file is in memory at once.
const pieceSize = 256 << 10

// fileEntry is what a tenant's file is known by.
type fileEntry struct {
	id   int64
	name string
	mode fs.FileMode
	size int64
	sum  string
}

// newFilesHash sums up entries, by what each of their four parts is.
func newFilesHash() *tableHash {
	as := []Type{{Kind: Any}, {Kind: Any}, {Kind: Any}, {Kind: Any}}
	return newTableHash(as, as)
}

// addFile adds an entry to the sum.
func (h *tableHash) addFile(e fileEntry) {
	h.add([]any{e.name, int64(e.mode.Perm()), e.size, e.sum})
}

// content is what has been read or written of a file.
type content struct {
	hash.Hash
	size int64
}

func newContent() *content { return &content{Hash: sha256.New()} }

// Write implements [io.Writer].
func (c *content) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	return c.Hash.Write(p)
}

func (c *content) String() string { return hex.EncodeToString(c.Sum(nil)) }

func (c *content) expect(e fileEntry) error {
	if c.size != e.size || c.String() != e.sum {
		return fmt.Errorf("%w: file %s is not what was written", ErrDamaged, e.name)
	}
	return nil
}

// dirFS is a directory of which all names will do: root.FS() refuses those that are no UTF-8.
type dirFS struct{ root *os.Root }

// Open implements [fs.FS].
func (d dirFS) Open(name string) (fs.File, error) { return d.root.Open(name) }

// eachRegular calls fn for each file of a directory. What is neither a file nor a directory cannot be moved.
func eachRegular(ctx context.Context, root *os.Root, fn func(name string) error) error {
	return fs.WalkDir(dirFS{root}, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("tenement: transfer: %s is neither a file nor a directory; leave the files out, or remove it", name)
		}
		return fn(name)
	})
}

// walkFiles reads the files of a tenant, one after the other; piece is called for each part of the one that id is that of.
func walkFiles(ctx context.Context, app *tenancy.App, t tenancy.Tenant, piece func(id, n int64, data []byte) error, done func(fileEntry) error) (files Files, err error) {
	if !app.HasFiles() {
		return files, nil
	}
	root, err := app.Dir(backend.WithRouter(ctx, &t))
	if errors.Is(err, tenancy.ErrNotFound) {
		return files, nil // a tombstone that never had any
	}
	if err != nil {
		return files, err
	}
	defer root.Close()
	sum := newFilesHash()
	err = eachRegular(ctx, root, func(name string) error {
		files.Count++
		e, err := readFile(root, name, files.Count, piece)
		if err != nil {
			return err
		}
		files.Bytes += e.size
		sum.addFile(e)
		return done(e)
	})
	if files.Count > 0 {
		files.Hash = sum.String()
	}
	return files, err
}

func readFile(root *os.Root, name string, id int64, piece func(id, n int64, data []byte) error) (e fileEntry, err error) {
	f, err := root.Open(name)
	if err != nil {
		return e, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return e, err
	}
	c := newContent()
	buf := make([]byte, pieceSize)
	for n := int64(0); ; n++ {
		got, err := io.ReadFull(f, buf)
		if got > 0 {
			_, _ = c.Write(buf[:got]) // a hash does not fail
			if err := piece(id, n, buf[:got]); err != nil {
				return e, err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fileEntry{id: id, name: name, mode: info.Mode().Perm(), size: c.size, sum: c.String()}, nil
		}
		if err != nil {
			return e, err
		}
	}
}

// sumFiles sums up the files of a tenant.
func sumFiles(ctx context.Context, app *tenancy.App, t tenancy.Tenant) (Files, error) {
	return walkFiles(ctx, app, t, func(int64, int64, []byte) error { return nil }, func(fileEntry) error { return nil })
}

// files writes the tenant's files.
func (w *fileWriter) files(ctx context.Context, app *tenancy.App, t tenancy.Tenant) (Files, error) {
	return walkFiles(ctx, app, t, func(id, n int64, data []byte) error {
		_, err := w.tx.ExecContext(ctx, "INSERT INTO tenement_pieces VALUES ($1, $2, $3)", id, n, data)
		return err
	}, func(e fileEntry) error {
		_, err := w.tx.ExecContext(ctx, "INSERT INTO tenement_files VALUES ($1, $2, $3, $4, $5)", e.id, e.name, int64(e.mode), e.size, e.sum)
		return err
	})
}

// eachFile calls fn for each file that was written, and sees to it that there are no others.
func (f *File) eachFile(ctx context.Context, fn func(e fileEntry) error) error {
	sum := newFilesHash()
	for id := int64(1); id <= f.Manifest.Files.Count; id++ {
		e := fileEntry{id: id}
		err := f.db.QueryRowContext(ctx, "SELECT path, mode, size, sha256 FROM tenement_files WHERE id = $1", id).Scan(&e.name, &e.mode, &e.size, &e.sum)
		if err != nil {
			return fmt.Errorf("%w: file %d: %w", ErrDamaged, id, err)
		}
		sum.addFile(e)
		if err := fn(e); err != nil {
			return err
		}
	}
	if f.Manifest.Files.Count > 0 && sum.String() != f.Manifest.Files.Hash {
		return fmt.Errorf("%w: the list of files is not what was written", ErrDamaged)
	}
	return nil
}

// restoreFiles writes the files into the directory of the tenant that ctx is in.
func (f *File) restoreFiles(ctx context.Context, app *tenancy.App) error {
	if f.Manifest.Files.Count == 0 {
		return nil
	}
	root, err := app.Dir(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	return f.eachFile(ctx, func(e fileEntry) error { return f.restoreFile(ctx, root, e) })
}

func (f *File) restoreFile(ctx context.Context, root *os.Root, e fileEntry) error {
	if !filepath.IsLocal(e.name) { // not fs.ValidPath: a name need not be UTF-8
		return fmt.Errorf("%w: %q is no file's name", ErrDamaged, e.name)
	}
	if err := root.MkdirAll(path.Dir(e.name), 0o750); err != nil {
		return err
	}
	out, err := root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.mode.Perm()|0o200)
	if err != nil {
		return err
	}
	c := newContent()
	err = f.pieces(ctx, e.id, io.MultiWriter(out, c))
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := c.expect(e); err != nil {
		return err
	}
	return root.Chmod(e.name, e.mode.Perm())
}

func (f *File) pieces(ctx context.Context, id int64, out io.Writer) error {
	return each(ctx, f.db, "SELECT data FROM tenement_pieces WHERE file = $1 ORDER BY piece", []any{id}, func(scan func(...any) error) error {
		var data []byte
		if err := scan(&data); err != nil {
			return &readError{err}
		}
		_, err := out.Write(data)
		return err
	})
}
