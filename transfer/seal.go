package transfer

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// The seal covers what the hashes of rows and manifest do not: the file's header, its schema, its free pages. SQLite's own
// integrity_check is no use for that: it finds what cannot be, not what was changed. It is of the whole file, with zeros in
// the place of the seal itself, which is a row of a table that was made first and so is in one of the first pages. Like the
// hashes of rows it tells damage, not forgery.

// sealWithin is where the seal is to be found.
const sealWithin = 64 << 10

// newMark is what holds the place of the seal until the rest is written.
func newMark() string {
	var random [sha256.Size]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// sealFile puts the seal in the place of the mark. Nobody has the database open.
func sealFile(f *os.File, mark string) error {
	digest, at, err := digestFile(context.Background(), f, mark)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(digest), at)
	return err
}

// digestFile sums up a file with zeros in the place of mark, and says where that is.
func digestFile(ctx context.Context, f io.ReaderAt, mark string) (digest string, at int64, err error) {
	head := make([]byte, sealWithin)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", 0, err
	}
	head = head[:n]
	i := bytes.Index(head, []byte(mark))
	if i < 0 || len(mark) != 2*sha256.Size {
		return "", 0, fmt.Errorf("%w: it has no seal", ErrDamaged)
	}
	clear(head[i : i+len(mark)])
	sum := sha256.New()
	_, _ = sum.Write(head) // a hash does not fail
	rest, buf := io.NewSectionReader(f, int64(n), 1<<62), make([]byte, pieceSize)
	for err == nil {
		if ctx.Err() != nil {
			return "", 0, context.Cause(ctx)
		}
		n, err = rest.Read(buf)
		_, _ = sum.Write(buf[:n])
	}
	if !errors.Is(err, io.EOF) {
		return "", 0, err
	}
	return hex.EncodeToString(sum.Sum(nil)), int64(i), nil
}

// sealed returns ErrDamaged when a byte of the file is not what was written.
func (f *File) sealed(ctx context.Context) error {
	var want string
	if err := f.db.QueryRowContext(ctx, "SELECT sha256 FROM tenement_seal").Scan(&want); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	got, _, err := digestFile(ctx, file, want)
	if err == nil && got != want {
		err = fmt.Errorf("%w: it was changed after it was written", ErrDamaged)
	}
	return err
}
