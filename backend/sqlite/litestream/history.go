package litestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ls "github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// history is what lies here of a store's history: the newest files of level 0, from which Litestream knows where it was.
//
// It goes on from there when it finds its last page in the -wal. That is not enough where nobody has held the -wal in place
// meanwhile: frames behind that page may have been moved into the file by a checkpoint, and the -wal begun anew and not
// got as far as that page yet. Then they would be missing in the history. So a history is only gone on with while the -wal is the
// one it left (its salts change whenever it begins anew); else Litestream is made to take a snapshot.
type history struct{ dir string }

func (h history) level0() string { return filepath.Join(h.dir, "ltx", "0") }

func (h history) path(txid ltx.TXID) string {
	return filepath.Join(h.level0(), ltx.FormatFilename(txid, txid))
}

// newest returns the last transaction that is here.
func (h history) newest() (last ltx.TXID, err error) {
	entries, err := os.ReadDir(h.level0())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	for _, e := range entries {
		if _, to, err := ltx.ParseFilename(e.Name()); err == nil {
			last = max(last, to)
		}
	}
	return last, nil
}

// agree makes what is here end where the target ends, with there: what another machine has written since counts, and so does
// that something is not there any more. What a process that died left behind here was not sent, and it is not known whether it may be.
func (h history) agree(ctx context.Context, c *client, there ltx.FileInfo) error {
	if there.MaxTXID == 0 {
		return os.RemoveAll(h.level0()) // it begins
	}
	if err := h.discard(there.MaxTXID); err != nil {
		return err
	}
	if _, err := h.header(there.MaxTXID); err == nil {
		return nil
	}
	if err := os.RemoveAll(h.level0()); err != nil {
		return err
	}
	if err := os.MkdirAll(h.level0(), 0o700); err != nil {
		return err
	}
	return h.download(ctx, c, there)
}

// download gets the target's newest file.
func (h history) download(ctx context.Context, c *client, there ltx.FileInfo) (err error) {
	r, err := c.OpenLTXFile(ctx, 0, there.MinTXID, there.MaxTXID, 0, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return h.write(there.MaxTXID, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

func (h history) write(txid ltx.TXID, fill func(io.Writer) error) error {
	temp := h.path(txid) + ".tmp"
	f, err := os.Create(temp)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return os.Rename(temp, h.path(txid))
}

// header reads that of a file that is here.
func (h history) header(txid ltx.TXID) (ltx.Header, error) {
	f, err := os.Open(h.path(txid))
	if err != nil {
		return ltx.Header{}, err
	}
	defer f.Close()
	dec := ltx.NewDecoder(f)
	err = dec.DecodeHeader()
	return dec.Header(), err
}

// goOn has Litestream go on with the history if the -wal is still the one that it has seen, or begin with a snapshot. It
// returns the salts that the -wal must have still when Litestream has it, zero when a snapshot is taken in any case.
func (h history) goOn(wal string) (seen walSalts, err error) {
	last, err := h.newest()
	if err != nil || last == 0 {
		return walSalts{}, err
	}
	header, err := h.header(last)
	if err != nil {
		return walSalts{}, err
	}
	if seen, err = salts(wal); err != nil {
		return walSalts{}, err
	}
	if seen == (walSalts{}) || seen != (walSalts{header.WALSalt1, header.WALSalt2}) {
		return walSalts{}, h.forget(last)
	}
	return seen, nil
}

// walSalts are drawn anew whenever a -wal begins anew.
type walSalts [2]uint32

// salts returns those in the header of a -wal, zero when there is none. No lock is on a -wal: it may be opened and closed.
func salts(wal string) (walSalts, error) {
	f, err := os.Open(wal)
	if errors.Is(err, os.ErrNotExist) {
		return walSalts{}, nil
	} else if err != nil {
		return walSalts{}, err
	}
	defer f.Close()
	var header [ls.WALHeaderSize]byte
	switch _, err := io.ReadFull(f, header[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return walSalts{}, nil
	case err != nil:
		return walSalts{}, err
	}
	return walSalts{binary.BigEndian.Uint32(header[16:]), binary.BigEndian.Uint32(header[20:])}, nil
}

// forget writes the newest file anew, the pages as they are, as one that was copied from the beginning of no -wal that there
// ever was. Litestream then takes a snapshot (DB.verify: "wal header salt reset"), under the next number.
func (h history) forget(txid ltx.TXID) error {
	in, err := os.Open(h.path(txid))
	if err != nil {
		return err
	}
	defer in.Close()
	dec := ltx.NewDecoder(in)
	if err := dec.DecodeHeader(); err != nil {
		return fmt.Errorf("%s: %w", h.path(txid), err)
	}
	header := dec.Header()
	header.WALOffset, header.WALSize, header.WALSalt1, header.WALSalt2 = ls.WALHeaderSize, 0, 0, 0
	return h.write(txid, func(w io.Writer) error { return encode(w, header, dec) })
}

// encode copies the pages of a file behind another header.
func encode(w io.Writer, header ltx.Header, from *ltx.Decoder) error {
	enc, err := ltx.NewEncoder(w)
	if err == nil {
		err = enc.EncodeHeader(header)
	}
	page, data := ltx.PageHeader{}, make([]byte, header.PageSize)
	for err == nil {
		if err = from.DecodePage(&page, data); err == nil {
			err = enc.EncodePage(ltx.PageHeader{Pgno: page.Pgno}, data)
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if err := from.Close(); err != nil { // verifies its checksum
		return err
	}
	enc.SetPostApplyChecksum(from.Trailer().PostApplyChecksum)
	return enc.Close()
}

// discard removes what was written after a transaction, of which nothing was sent.
func (h history) discard(after ltx.TXID) error {
	entries, err := os.ReadDir(h.level0())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if _, to, perr := ltx.ParseFilename(e.Name()); perr == nil && to > after {
			err = errors.Join(err, os.Remove(filepath.Join(h.level0(), e.Name())))
		}
	}
	return err
}
