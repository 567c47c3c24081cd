package litestream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	ls "github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// stream copies one store: from its -wal to files here (copy), from there to the target (send).
//
// The -wal is found by name and the store's file is held open, so a name that was given to another store meanwhile would mix
// two tenants. Nothing is sent before it is known that the name still stands for the file that is open: it is looked at after
// copying, since a file that lost its name does not get it back while somebody has it open (Drop removes it; Rename waits
// for those who have it open).
type stream struct {
	r       *run
	name    string // in the target: the tenant's ID, or sharedName
	client  *client
	history history

	mu     sync.Mutex // held while the store is opened, copied or closed, and during no call to the target
	store  backend.Store
	db     *ls.DB      // nil: closed
	file   os.FileInfo // that db has open
	clean  mark        // all that was in the store then is copied
	copied ltx.TXID    // up to here it may be sent
	noted  mark        // what is kept of clean for the next process

	openAs    atomic.Pointer[backend.Store]      // nil: closed
	used      atomic.Int64                       // when something was copied last
	busy      atomic.Bool                        // somebody has the turn
	interrupt atomic.Pointer[context.CancelFunc] // ends a long read of the store

	// Of the one who has the turn.
	sent     ltx.TXID
	fails    int
	rest     time.Time // not before
	snapshot time.Time // the newest of those in the target, when that is known
}

// errLost: the store was dropped, renamed or replaced.
var errLost = errors.New("the store is not there any more")

func (r *run) newStream(name string, store backend.Store) (*stream, error) {
	c, err := r.b.target.client(name)
	if err != nil {
		return nil, err
	}
	h := history{local(r.be, name)}
	clean := readNote(h.dir, r.b.target.url.String())
	return &stream{r: r, name: name, client: c, history: h, store: store, clean: clean, noted: clean}, nil
}

func (s *stream) path() string { return s.r.be.Path(s.store) }

// turn copies the store if it has changed, sends what was copied, and closes it when it has been idle for long. One
// caller at a time has it.
func (s *stream) turn(ctx context.Context) {
	if time.Now().Before(s.rest) {
		return
	}
	err := s.step(ctx)
	switch {
	case err == nil, isGone(err):
		s.fails = 0
		return
	case ctx.Err() != nil, errors.Is(err, sqlite.ErrBusy):
		return // somebody is renaming it: the next turn comes soon
	}
	s.fails++
	s.rest = time.Now().Add(min(s.r.b.cfg.Interval<<min(s.fails, 10), 30*time.Second))
	s.r.b.cfg.Log.WarnContext(ctx, "tenement: a store could not be backed up, which is tried again", "store", s.store.String(), "id", s.name, "error", err)
}

// due reports whether there is anything to do. Most of the time there is not, and that takes two looks at files.
func (s *stream) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil || s.sent < s.copied || s.clean != s.noted {
		return true
	}
	now, _, err := look(s.path())
	return err == nil && !s.clean.covers(now)
}

func (s *stream) step(ctx context.Context) error {
	now, _, err := look(s.path())
	if err != nil {
		return errors.Join(err, s.close(ctx))
	}
	changed, open := s.state(now)
	switch {
	case changed:
		if err := s.copy(ctx, open); err != nil {
			return err
		}
	case open && time.Since(time.Unix(0, s.used.Load())) > s.r.b.cfg.Idle:
		if err := s.close(ctx); err != nil {
			return err
		}
	}
	if err := s.send(ctx); err != nil {
		return err
	}
	return s.tend(ctx)
}

func (s *stream) state(now mark) (changed, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.clean.covers(now), s.db != nil
}

// copy brings what is new in the store into files here, opening it first if need be.
func (s *stream) copy(ctx context.Context, open bool) error {
	var there ltx.FileInfo
	if !open {
		s.r.makeRoom(ctx)
		// Whatever was not sent goes first: then what is there tells where to go on.
		if err := s.send(ctx); err != nil {
			return err
		}
		var err error
		if there, err = s.ask(ctx); err != nil {
			return fmt.Errorf("look at the target: %w", err)
		}
		s.sent = there.MaxTXID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		if open {
			return nil // it was let go of for somebody who renames it
		}
		return s.open(ctx, there)
	}
	return s.sync(ctx)
}

// ask finds out where the target ends, and makes what is here end there.
func (s *stream) ask(ctx context.Context) (there ltx.FileInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if there, err = s.client.newest(ctx); err == nil {
		err = s.history.agree(ctx, s.client, there)
	}
	return there, err
}

// sync copies. The caller holds s.mu, and the store is open; after an error it is closed.
func (s *stream) sync(ctx context.Context) error {
	now, _, err := look(s.path())
	if err == nil {
		err = s.db.Sync(ctx)
	}
	if err == nil {
		err = s.confirm(s.db)
	}
	if err != nil {
		return errors.Join(err, s.shut(ctx))
	}
	if !s.clean.Main.equal(now.Main) || !s.clean.WAL.equal(now.WAL) {
		s.used.Store(time.Now().UnixNano())
	}
	s.clean = now
	return nil
}

// confirm lets what was copied be sent, if it is known to be this store's.
func (s *stream) confirm(db *ls.DB) error {
	if !s.isThere() {
		return errLost
	}
	pos, err := db.Pos()
	if err == nil {
		s.copied = pos.TXID
	}
	return err
}

// isThere reports whether the store's name stands for the file that is open.
func (s *stream) isThere() bool {
	now, err := os.Lstat(s.path())
	return err == nil && os.SameFile(now, s.file)
}

// open opens the store and copies what is new in it. The caller holds s.mu.
func (s *stream) open(ctx context.Context, there ltx.FileInfo) error {
	if !s.store.IsZero() {
		// SQLite makes a file that is not there, and it must not be another tenant's.
		release, err := s.r.be.Hold(ctx, s.store)
		if err != nil {
			return err
		}
		defer release()
		info, err := s.r.be.Stat(ctx, s.store)
		if errors.Is(err, backend.ErrStoreMissing) || err == nil && info.Owner != s.name {
			return errLost
		}
		if err != nil {
			return err
		}
	}
	for {
		again, err := s.openFile(ctx, there)
		if err != nil || !again {
			return err
		}
	}
}

// openFile is open once it is known whose file that is. again says that the -wal began anew while it was opened.
func (s *stream) openFile(ctx context.Context, there ltx.FileInfo) (again bool, err error) {
	if err := errors.Join(os.MkdirAll(s.history.dir, 0o700), removeNote(s.history.dir)); err != nil {
		return false, err
	}
	s.noted = mark{}
	if s.file, err = os.Lstat(s.path()); err != nil {
		return false, err
	}
	before, err := s.history.newest()
	if err != nil {
		return false, err
	}
	seen, err := s.history.goOn(s.path() + "-wal")
	if err != nil {
		return false, err
	}
	s.copied = before
	db := s.newDB()
	if err := db.Open(); err != nil {
		return false, err
	}
	s.db = db
	store := s.store
	s.openAs.Store(&store)
	s.used.Store(time.Now().UnixNano())
	s.client.known.Store(&there)
	err = s.sync(ctx)
	s.client.known.Store(nil)
	if err != nil || seen == (walSalts{}) {
		return false, err
	}
	if now, err := salts(s.path() + "-wal"); err == nil && now == seen {
		return false, nil
	}
	// It may be that Litestream itself began it anew; that is not looked into.
	err = s.shut(ctx)
	s.copied, s.clean = before, mark{}
	return true, errors.Join(err, s.history.discard(before), s.history.forget(before))
}

// newDB is Litestream's side of the store. It starts nothing by itself: who has the turn calls.
func (s *stream) newDB() *ls.DB {
	db := ls.NewDB(s.path())
	db.SetMetaPath(s.history.dir)
	db.Replica = ls.NewReplicaWithClient(db, s.client)
	db.Replica.MonitorEnabled = false
	db.SetLogger(quiet)
	db.MonitorInterval = 0
	// A checkpoint writes to the -wal: by the clock, an idle store would never be idle.
	db.CheckpointInterval = 0
	db.BusyTimeout = 2 * time.Second
	// Close does not send: its caller may be waited for by somebody who renames the store.
	db.Done, db.ShutdownSyncTimeout = closedChannel, time.Second
	return db
}

var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// close lets go of the store, if it is open.
func (s *stream) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	return s.shut(ctx)
}

// letGo is close for somebody who waits for it.
func (s *stream) letGo(ctx context.Context) error {
	if interrupt := s.interrupt.Load(); interrupt != nil {
		(*interrupt)()
	}
	return s.close(ctx)
}

// shut closes the store, for which Litestream copies once more. The caller holds s.mu.
func (s *stream) shut(ctx context.Context) error {
	db := s.db
	if db == nil {
		return nil
	}
	s.db = nil
	defer s.openAs.Store(nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	last, _, err := look(s.path())
	if cerr := db.Close(ctx); !errors.Is(cerr, ls.ErrShutdownInterrupted) {
		err = errors.Join(err, cerr)
	}
	if err == nil {
		err = s.confirm(db)
	}
	// The last one to close a store moves its -wal into the file; the -wal stays as it was. So this is what a store looks
	// like to which nobody has written since.
	now, _, lerr := look(s.path())
	if err = errors.Join(err, lerr); err != nil {
		s.clean = mark{}
		return errors.Join(err, s.history.discard(s.copied))
	}
	s.clean = mark{Main: now.Main, WAL: last.WAL, At: last.At}
	return nil
}

// send sends what was copied. Nothing is asked of the target when nothing was.
func (s *stream) send(ctx context.Context) error {
	s.mu.Lock()
	copied := s.copied
	s.mu.Unlock()
	for s.sent < copied {
		if err := s.sendFile(ctx, s.sent+1); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		s.sent++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil || s.sent < s.copied || s.clean == (mark{}) {
		return nil
	}
	return s.keepNote()
}

func (s *stream) sendFile(ctx context.Context, txid ltx.TXID) error {
	ctx, cancel := context.WithTimeout(ctx, time.Hour) // Litestream's own is a day
	defer cancel()
	f, err := os.Open(s.history.path(txid))
	if err != nil {
		return err
	}
	_, err = s.client.WriteLTXFile(ctx, 0, txid, txid, f)
	return errors.Join(err, f.Close())
}

// keepNote spares the next process a look at a store that is closed, and of which all is sent. The caller holds s.mu.
func (s *stream) keepNote() error {
	target := s.r.b.target.url.String()
	if s.noted == s.clean {
		return nil
	}
	s.noted = s.clean
	return writeNote(s.history.dir, target, s.clean)
}
