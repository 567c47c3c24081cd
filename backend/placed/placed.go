package placed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// Backend is several backends that are one. It is safe for concurrent use.
type Backend struct {
	log    *slog.Logger
	places []*place // the first is home
	home   *opened
	dir    directory
	closed atomic.Bool

	db, lenient *driver.Handle
}

var (
	_ backend.Backend         = (*Backend)(nil)
	_ backend.Placer          = (*Backend)(nil)
	_ backend.ScriptRunner    = (*Backend)(nil)
	_ backend.Locker          = (*Backend)(nil)
	_ backend.Sweeper         = (*Backend)(nil)
	_ backend.Adopter         = (*Backend)(nil)
	_ backend.Advisor         = (*Backend)(nil)
	_ backend.Bounded         = (*Backend)(nil)
	_ backend.ClientCommander = (*Backend)(nil)
	_ backend.Nowherer        = (*Backend)(nil)
)

// Open opens the places, of which home must answer; one of the others that does not is opened later. It returns an error
// that wraps [backend.ErrInvalidURL] when cfg is wrong, and [errors.ErrUnsupported] for a backend that cannot be a place. The
// caller closes the backend.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if err := cfg.check(); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	b := &Backend{log: cfg.Logger}
	if b.log == nil {
		b.log = slog.Default()
	}
	for _, p := range cfg.Places {
		b.places = append(b.places, &place{name: p.Name, url: p.URL, lent: p.Backend != nil, turn: make(chan struct{}, 1)})
	}
	if err := b.openPlaces(ctx, cfg.Places); err != nil {
		return nil, errors.Join(err, b.closePlaces())
	}
	b.db = driver.NewHandle(source{b: b}, driver.AccessTenant, b.log)
	b.lenient = driver.NewNowhereHandle(nowhere{source{b: b}}, b.log)
	return b, nil
}

func (b *Backend) openPlaces(ctx context.Context, cfg []Place) (err error) {
	for i, p := range b.places {
		if lent := cfg[i].Backend; lent != nil {
			o, err := p.accept(lent)
			if err != nil {
				return &backend.Error{Op: "open place " + p.name, Err: err}
			}
			p.now.Store(o)
		}
		o, err := p.open(ctx)
		switch {
		case err == nil:
		case i == 0, errors.Is(err, backend.ErrInvalidURL), errors.Is(err, errors.ErrUnsupported), ctx.Err() != nil:
			return err
		default:
			b.log.ErrorContext(ctx, "tenement: a place cannot be reached; its tenants have to wait", "place", p.name, "error", err)
		}
		if i == 0 {
			b.home = o
		}
		p.dialect = b.home.be.Dialect()
		if i+1 < len(b.places) {
			b.places[i+1].dialect = p.dialect
		}
		p.shared = driver.NewHandle(source{b: b, fixed: p}, driver.AccessShared, b.log)
	}
	b.dir = directory{db: b.home.be.Shared(), home: b.places[0].name}
	return b.dir.make(ctx, b)
}

// Dialect is that of all places.
func (b *Backend) Dialect() backend.Dialect { return b.home.be.Dialect() }

// DB returns the routed handle; see [backend.Backend].
func (b *Backend) DB() *sql.DB { return b.db.DB() }

// DBOrNowhere implements [backend.Nowherer], where home does.
func (b *Backend) DBOrNowhere() *sql.DB { return b.lenient.DB() }

// Shared returns the handle on home's shared store. See [Backend.In] for those of other places.
func (b *Backend) Shared() *sql.DB { return b.places[0].sharedDB() }

// DBFor returns a new handle bound to rt, wherever that is. The caller closes it.
func (b *Backend) DBFor(rt backend.Route) *sql.DB {
	return driver.OpenDB(source{b: b}, rt, driver.AccessTenant)
}

// Maintenance returns a new handle on rt for its upkeep, wherever that is. The caller closes it.
func (b *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB(source{b: b}, rt, driver.AccessMaintenance)
}

// Places implements [backend.Placer].
func (b *Backend) Places() []string {
	names := make([]string, len(b.places))
	for i, p := range b.places {
		names[i] = p.name
	}
	return names
}

// In implements [backend.Placer].
func (b *Backend) In(name string) backend.Backend {
	p := b.place(name)
	if p == nil {
		return nil
	}
	return &view{Backend: b, p: p}
}

// At returns the backend of the place where a store is: a *postgres.Backend or a *sqlite.Backend, for what only that can do,
// such as PGXFor. It is this backend's to close. Stores are not to be made, dropped or renamed with it.
func (b *Backend) At(ctx context.Context, s backend.Store) (backend.Backend, error) {
	var be backend.Backend
	err := b.following(ctx, s, func(o *opened) error {
		be = o.be
		return nil
	})
	return be, err
}

func (b *Backend) place(name string) *place {
	for _, p := range b.places {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Stat describes one store; see [backend.Backend].
func (b *Backend) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	var info backend.StoreInfo
	err := b.following(ctx, s, func(o *opened) (err error) {
		info, err = o.be.Stat(ctx, s)
		return err
	})
	return info, err
}

// Stores lists the stores of all places, in order of name. A place that cannot be reached is an error, after the stores of
// the others. A store that is not where the directory has it is left out; see [Backend.Advise].
func (b *Backend) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	return b.storesIn(ctx, b.places)
}

func (b *Backend) storesIn(ctx context.Context, places []*place) iter.Seq2[backend.StoreInfo, error] {
	return func(yield func(backend.StoreInfo, error) bool) {
		found, err := b.found(ctx, places)
		for _, f := range found {
			if !f.stray && !yield(f.info, nil) {
				return
			}
		}
		if err != nil {
			yield(backend.StoreInfo{}, err)
		}
	}
}

// foundStore is a store and where it was found.
type foundStore struct {
	info  backend.StoreInfo
	place *place
	stray bool // the directory has it elsewhere
}

// found returns the stores of places, in order of name, and the errors of those that did not answer.
func (b *Backend) found(ctx context.Context, places []*place) (found []foundStore, err error) {
	if b.closed.Load() {
		return nil, &backend.Error{Op: "list stores", Err: backend.ErrClosed}
	}
	var faults []error
	for _, p := range places {
		o, err := p.open(ctx)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for info, err := range o.be.Stores(ctx) {
			if err != nil {
				faults = append(faults, fmt.Errorf("place %s: %w", p.name, err))
				break
			}
			found = append(found, foundStore{info: info, place: p})
		}
	}
	// Read after the stores were: one that was made meanwhile has its row before.
	rows, err := b.dir.all(ctx)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		at, there := rows[f.info.Store]
		if !there {
			at = b.places[0].name
		}
		found[i].stray = at != f.place.name
	}
	slices.SortFunc(found, func(x, y foundStore) int {
		return strings.Compare(x.info.Store.String(), y.info.Store.String())
	})
	return found, errors.Join(faults...)
}

// Close closes the handles and the places that were opened from their URLs; see [backend.Backend].
func (b *Backend) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return errors.Join(b.db.Close(), b.lenient.Close(), b.closePlaces())
}

func (b *Backend) closePlaces() error {
	var errs []error
	for _, p := range b.places {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// Concurrency returns what the smallest of the pools may have open; see [backend.Bounded].
func (b *Backend) Concurrency() int {
	least := 0
	for _, p := range b.places {
		if o := p.now.Load(); o != nil {
			if n := concurrency(o.be); n > 0 && (least == 0 || n < least) {
				least = n
			}
		}
	}
	return max(least, 2)
}

func concurrency(be backend.Backend) int {
	if bounded, ok := be.(backend.Bounded); ok {
		return bounded.Concurrency()
	}
	return 0
}
