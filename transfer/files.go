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

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// pieceSize is how much of a file is in memory at once.
const pieceSize = 256 << 10

// fileTypes are the types as which an entry of tenement_files is summed up.
var fileTypes = []Type{{Kind: Any}, {Kind: Any}, {Kind: Any}, {Kind: Any}}

// files writes the tenant's files.
func (w *fileWriter) files(ctx context.Context, app *tenancy.App, t tenancy.Tenant, m *Manifest) error {
	if !app.HasFiles() {
		return nil
	}
	root, err := app.Dir(backend.WithRouter(ctx, &t))
	if errors.Is(err, tenancy.ErrNotFound) {
		return nil // a tombstone that never had any
	}
	if err != nil {
		return err
	}
	defer root.Close()
	var sum tableHash
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("tenement: transfer: file %s is neither a file nor a directory; leave the files out, or remove it", name)
		}
		m.Files.Count++
		size, err := w.file(ctx, root, name, m.Files.Count, &sum)
		m.Files.Bytes += size
		return err
	})
	m.Files.Hash = sum.String()
	return err
}


func (w *fileWriter) file(ctx context.Context, root *os.Root, name string, id int64, sum *tableHash) (size int64, err error) {
	f, err := root.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	content := sha256.New()
	buf := make([]byte, pieceSize)
	for piece := 0; ; piece++ {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			size += int64(n)
			content.Write(buf[:n])
			if _, err := w.tx.ExecContext(ctx, "INSERT INTO tenement_pieces VALUES ($1, $2, $3)", id, piece, buf[:n]); err != nil {
				return size, err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return size, err
		}
	}
	row := []any{name, int64(info.Mode().Perm()), size, hex.EncodeToString(content.Sum(nil))}
	sum.add(fileTypes, fileTypes, row)
	_, err = w.tx.ExecContext(ctx, "INSERT INTO tenement_files VALUES ($1, $2, $3, $4, $5)", append([]any{id}, row...)...)
	return size, err
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
	type entry struct {
		id, mode, size int64
		name, sum      string
	}
	var sum tableHash
	for id := int64(1); id <= f.Manifest.Files.Count; id++ {
		e := entry{id: id}
		err := f.db.QueryRowContext(ctx, "SELECT path, mode, size, sha256 FROM tenement_files WHERE id = $1", id).Scan(&e.name, &e.mode, &e.size, &e.sum)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		sum.add(fileTypes, fileTypes, []any{e.name, e.mode, e.size, e.sum})
		if err := f.restoreFile(ctx, root, e.id, e.name, fs.FileMode(e.mode), e.sum); err != nil {
			return err
		}
	}
	if sum.String() != f.Manifest.Files.Hash {
		return fmt.Errorf("%w: the list of files is not what was written", ErrDamaged)
	}
	return nil
}

func (f *File) restoreFile(ctx context.Context, root *os.Root, id int64, name string, mode fs.FileMode, want string) error {
	if !fs.ValidPath(name) {
		return fmt.Errorf("%w: %q is no file's name", ErrDamaged, name)
	}
	if err := root.MkdirAll(path.Dir(name), 0o750); err != nil {
		return err
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm()|0o200)
	if err != nil {
		return err
	}
	content := sha256.New()
	err = f.pieces(ctx, id, out, content)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(content.Sum(nil)) != want {
		return fmt.Errorf("%w: file %s is not what was written", ErrDamaged, name)
	}
	return nil
}

func (f *File) pieces(ctx context.Context, id int64, out io.Writer, content hash.Hash) error {
	return each(ctx, f.db, "SELECT data FROM tenement_pieces WHERE file = $1 ORDER BY piece", []any{id}, func(scan func(...any) error) error {
		var data []byte
		if err := scan(&data); err != nil {
			return err
		}
		content.Write(data)
		_, err := out.Write(data)
		return err
	})
}
