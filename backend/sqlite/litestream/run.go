package litestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	ls "github.com/benbjohnson/litestream"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/tenancy"
)

// atOnce is how many stores are copied at once.
const atOnce = 8

// yieldEvery is how often it is looked whether somebody renames a store, for whom it has to be closed.
const yieldEvery = 100 * time.Millisecond

// run is one call of Run.
type run struct {
	b     *Backups
	app   *tenancy.App
	be    *sqlite.Backend
	rules *ls.Store // what Litestream merges and removes in the target, and when; it is never opened

	registry mark // as it was when the tenants were listed

	mu      sync.Mutex
	streams map[string]*stream
}

// Run implements [manage.Backups]: it copies the shared store and that of every tenant, those that come later too, until ctx
// ends, which is no error; before it returns it copies what it has not yet. A store that cannot be copied is tried again and
// again, and Config.Log told. It waits while somebody else, in whatever process, runs for the same stores.
//
// It returns ErrLocks where this process would lose locks, and ErrBackend for other stores than those of backend/sqlite.
func (b *Backups) Run(ctx context.Context, app *tenancy.App) error {
	return b.alone(ctx, app, func(r *run) error { return ended(ctx, r.loop(ctx)) })
}

// RunOnce implements [manage.Backups]: it copies what has changed since somebody ran for the same stores, and returns. What
// could not be copied is in the error; the rest is. It returns what Run does otherwise.
func (b *Backups) RunOnce(ctx context.Context, app *tenancy.App) error {
	return b.alone(ctx, app, func(r *run) error {
		if err := r.list(ctx); err != nil {
			return err
		}
		return r.drain(ctx)
	})
}

// alone calls do while nobody else runs for the same stores.
func (b *Backups) alone(ctx context.Context, app *tenancy.App, do func(r *run) error) error {
	be, err := directory(app)
	if err == nil {
		err = locksSafe()
	}
	if err != nil {
		return err
	}
	lock, err := be.Lock(ctx, "litestream")
	if err != nil {
		return ended(ctx, err)
	}
	defer lock.Unlock()
	if err := os.MkdirAll(local(be, ""), 0o700); err != nil {
		return err
	}
	return do(&run{b: b, app: app, be: be, rules: rules(b.cfg.Keep), streams: map[string]*stream{}})
}

// ended is an error that is none when the context's end is the cause.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (r *run) loop(ctx context.Context) error {
	background, stop := context.WithCancel(ctx)
	var yields sync.WaitGroup
	yields.Go(func() { r.yield(background) })
	defer func() {
		stop()
		yields.Wait()
	}()
	tick := time.NewTicker(r.b.cfg.Interval)
	defer tick.Stop()
	var turns errgroup.Group
	turns.SetLimit(atOnce)
	for {
		if err := r.list(ctx); err != nil && ctx.Err() == nil {
			r.b.cfg.Log.WarnContext(ctx, "tenement: the tenants could not be listed for the backup, which is tried again", "error", err)
		}
		r.round(ctx, &turns)
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = turns.Wait()
			return r.finish(ctx)
		}
	}
}

// finish is drain, once ctx has ended, for at most a minute.
func (r *run) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return r.drain(ctx)
}

// drain copies, sends and closes everything.
func (r *run) drain(ctx context.Context) error {
	var (
		g    errgroup.Group
		mu   sync.Mutex
		errs []error
	)
	g.SetLimit(atOnce)
	for _, s := range r.all() {
		if !s.due() {
			continue
		}
		g.Go(func() error {
			err := s.end(ctx)
			if err != nil && !isGone(err) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("tenement: litestream: back up %s: %w", s.name, errors.Join(err, s.close(ctx))))
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// lastTries is how often a store is tried that cannot be copied when there is no next round.
const lastTries = 4

// end copies, sends and closes the store. It waits for somebody who renames it.
func (s *stream) end(ctx context.Context) error {
	pause := time.NewTicker(yieldEvery)
	defer pause.Stop()
	for tries := 1; ; tries++ {
		err := s.step(ctx)
		if err == nil {
			err = s.close(ctx)
		}
		if err == nil {
			err = s.send(ctx)
		}
		if err == nil || isGone(err) || tries >= lastTries && !errors.Is(err, sqlite.ErrBusy) {
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return err
		}
	}
}

// round gives each store that has something to do its turn. It does not wait for them: what takes long, a first copy of much,
// does not hold up the others while not all places are taken.
func (r *run) round(ctx context.Context, turns *errgroup.Group) {
	for _, s := range r.all() {
		if ctx.Err() != nil {
			return
		}
		if s.busy.Load() || !s.due() {
			continue
		}
		s.busy.Store(true)
		turns.Go(func() error {
			defer s.busy.Store(false)
			s.turn(ctx)
			return nil
		})
	}
}

func (r *run) all() []*stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*stream, 0, len(r.streams))
	for _, s := range r.streams {
		all = append(all, s)
	}
	return all
}

// list learns of the tenants, if the shared store has changed, where they are.
func (r *run) list(ctx context.Context) error {
	now, _, err := look(r.be.Path(backend.Store{}))
	if err != nil || r.registry.covers(now) {
		return err
	}
	stores := map[string]backend.Store{sharedName: {}}
	for t, err := range r.app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Active, tenancy.ReadOnly, tenancy.Suspended, tenancy.Deleted}}) {
		if err != nil {
			return err
		}
		stores[string(t.ID)] = t.Store
	}
	all, err := r.follow(ctx, stores)
	if err == nil && all {
		r.registry = now
	}
	return err
}

// follow has a stream for each of the stores, and no others. It returns false when one is at work that has to change.
func (r *run) follow(ctx context.Context, stores map[string]backend.Store) (all bool, err error) {
	all = true
	for _, s := range r.all() {
		store, there := stores[s.name]
		switch {
		case there && store == s.where():
			continue
		case s.busy.Load():
			all = false
			continue
		}
		// It was renamed, for which it was let go of, or it is gone.
		_ = s.close(ctx) // what could not be copied any more is copied when it is opened again
		if there {
			s.move(store)
			continue
		}
		r.mu.Lock()
		delete(r.streams, s.name)
		r.mu.Unlock()
		if err := os.RemoveAll(s.history.dir); err != nil {
			return false, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, store := range stores {
		if r.streams[name] == nil {
			s, err := r.newStream(name, store)
			if err != nil {
				return false, err
			}
			r.streams[name] = s
		}
	}
	return all, nil
}

// isGone reports that a store was dropped, renamed or replaced, which its next turn or the registry tells of.
func isGone(err error) bool { return errors.Is(err, errLost) || errors.Is(err, fs.ErrNotExist) }

func (s *stream) where() backend.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store
}

func (s *stream) move(to backend.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store, s.clean = to, mark{}
}

// makeRoom closes the store that was copied longest ago if as many are open as may be. One that is being copied is not waited
// for, which may take as long as there is much in it.
func (r *run) makeRoom(ctx context.Context) {
	for _, s := range r.surplus() {
		if !s.mu.TryLock() {
			continue
		}
		store, err := s.store, s.shut(ctx)
		s.mu.Unlock()
		if err != nil && !isGone(err) {
			r.b.cfg.Log.WarnContext(ctx, "tenement: a store could not be closed after it was backed up", "store", store.String(), "error", err)
		}
		return
	}
}

// surplus lists the streams that are open, the one that was copied longest ago first, when they are as many as may be.
func (r *run) surplus() (open []*stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.streams {
		if s.openAs.Load() != nil {
			open = append(open, s)
		}
	}
	if len(open) < r.b.cfg.MaxOpen {
		return nil
	}
	slices.SortFunc(open, func(a, b *stream) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	return open
}

// yield lets go of stores that somebody renames.
func (r *run) yield(ctx context.Context) {
	tick := time.NewTicker(yieldEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, s := range r.all() {
			if store := s.openAs.Load(); store != nil && !store.IsZero() && r.be.Moving(*store) {
				_ = s.letGo(ctx) // what is wrong with it, its next turn says
			}
		}
	}
}
