package litestream

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	ls "github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// snapshotEvery is how often a store that is written to is copied as a whole, which bounds what a restore has to read.
const snapshotEvery = 24 * time.Hour

// rules are what becomes of files in the target: those of level 0 are merged twice a minute, and kept for five minutes more;
// the others every five minutes and every hour. They go when there is a snapshot that is older than what is kept.
func rules(keep time.Duration) *ls.Store {
	rules := ls.NewStore(nil, ls.DefaultCompactionLevels)
	rules.SnapshotRetention = keep
	return rules
}

// tend merges and removes files in the target, when it is time to, for a store that is open. In between nothing is asked of the
// target.
func (s *stream) tend(ctx context.Context) error {
	s.mu.Lock()
	db := s.db
	s.mu.Unlock()
	if db == nil {
		return nil
	}
	for _, level := range ls.DefaultCompactionLevels[1:] {
		_, err := s.r.rules.CompactDB(ctx, db, level)
		if err != nil && !errors.Is(err, ls.ErrNoCompaction) && !errors.Is(err, ls.ErrCompactionTooEarly) && !errors.Is(err, ls.ErrDBNotReady) {
			return err
		}
	}
	return s.renew(ctx, db)
}

// renew makes a snapshot when the newest is a day old, and removes what is not needed any more.
func (s *stream) renew(ctx context.Context, db *ls.DB) error {
	if s.snapshot.IsZero() {
		var err error
		if s.snapshot, err = s.lastSnapshot(ctx); err != nil {
			return err
		}
	}
	if time.Since(s.snapshot) < snapshotEvery {
		return nil
	}
	if err := s.takeSnapshot(ctx, db); err != nil {
		return err
	}
	s.snapshot = time.Now()
	return s.r.rules.EnforceSnapshotRetention(ctx, db)
}

// lastSnapshot returns when the newest was made. A history begins with one, of level 0, which was merged into others since.
func (s *stream) lastSnapshot(ctx context.Context) (at time.Time, err error) {
	for _, level := range []int{ls.SnapshotLevel, 3, 2, 1} {
		err := s.client.each(ctx, level, func(info *ltx.FileInfo) {
			if at.IsZero() || level == ls.SnapshotLevel && info.CreatedAt.After(at) || level != ls.SnapshotLevel && info.CreatedAt.Before(at) {
				at = info.CreatedAt
			}
		})
		if err != nil || !at.IsZero() {
			return at, err
		}
	}
	return time.Now(), nil
}

// takeSnapshot copies the store to a file here first: nothing is sent of which it is not known whose it is.
func (s *stream) takeSnapshot(ctx context.Context, db *ls.DB) error {
	f, err := os.Create(filepath.Join(s.history.dir, "snapshot.tmp"))
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	pos, err := s.readSnapshot(ctx, db, f)
	if err != nil || pos.TXID == 0 {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = s.client.WriteLTXFile(ctx, ls.SnapshotLevel, 1, pos.TXID, f)
	return err
}

func (s *stream) readSnapshot(ctx context.Context, db *ls.DB, to io.Writer) (pos ltx.Pos, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != db {
		return pos, nil // it was let go of
	}
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	s.interrupt.Store(&interrupt)
	defer s.interrupt.Store(nil)
	pos, r, err := db.SnapshotReader(ctx)
	if err != nil {
		return pos, err
	}
	_, err = io.Copy(to, r)
	if err = errors.Join(err, r.Close()); err == nil && !s.isThere() {
		err = errLost
	}
	return pos, err
}
