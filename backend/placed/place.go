package placed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// retryOpen is how long a place that could not be opened is not tried again; openTimeout bounds an attempt.
const (
	retryOpen   = time.Second
	openTimeout = 10 * time.Second
)

// place is a backend that is opened when it can be.
type place struct {
	name    string
	url     string
	dialect backend.Dialect // of home; empty for home itself
	lent    bool
	shared  *driver.Handle

	now  atomic.Pointer[opened]
	turn chan struct{} // has one in it while somebody opens

	// Under turn.
	next   time.Time // not before
	err    error     // of the last attempt
	closed bool
}

type opened struct {
	be  backend.Backend
	src driver.Source
}

// open returns the place's backend, opening it if need be.
func (p *place) open(ctx context.Context) (*opened, error) {
	if o := p.now.Load(); o != nil {
		return o, nil
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, p.fault(context.Cause(ctx))
	}
	defer func() { <-p.turn }()
	switch o := p.now.Load(); {
	case o != nil:
		return o, nil
	case p.closed:
		return nil, &backend.Error{Op: "reach " + p.name, Err: backend.ErrClosed}
	case time.Now().Before(p.next):
		return nil, p.err
	}
	o, err := p.connect(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.next, p.err = time.Now().Add(retryOpen), p.fault(err)
		}
		return nil, p.fault(err)
	}
	p.now.Store(o)
	return o, nil
}

func (p *place) connect(ctx context.Context) (*opened, error) {
	// What it keeps of the context must not be a tenant's.
	ctx, cancel := context.WithTimeout(backend.WithoutRoute(ctx), openTimeout)
	defer cancel()
	be, err := backend.Open(ctx, p.url)
	if err != nil {
		return nil, err
	}
	o, err := p.accept(be)
	if err != nil {
		return nil, errors.Join(err, be.Close())
	}
	return o, nil
}

// accept looks whether a backend can be a place.
func (p *place) accept(be backend.Backend) (*opened, error) {
	sourcer, ok := be.(driver.Sourcer)
	_, locks := be.(backend.Locker)
	_, scripts := be.(backend.ScriptRunner)
	switch {
	case !ok || !locks || !scripts:
		return nil, fmt.Errorf("%T cannot be a place: %w", be, errors.ErrUnsupported)
	case p.dialect != "" && be.Dialect() != p.dialect:
		return nil, fmt.Errorf("%w: place %s speaks %s, and home %s", backend.ErrInvalidURL, p.name, be.Dialect(), p.dialect)
	}
	return &opened{be: be, src: sourcer.Source()}, nil
}

func (p *place) fault(err error) error {
	return &backend.Error{Op: "reach place " + p.name, Err: fmt.Errorf("%w: %w", backend.ErrUnreachable, err)}
}

// up reports whether the place could be opened when it was last tried.
func (p *place) up(ctx context.Context) bool {
	_, err := p.open(ctx)
	return err == nil
}

// close closes the place's backend, unless it was lent, and has it stay closed. It waits for an attempt to open it.
func (p *place) close() error {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	p.closed = true
	var err error
	if p.shared != nil {
		err = p.shared.Close()
	}
	if o := p.now.Load(); o != nil && !p.lent {
		err = errors.Join(err, o.be.Close())
	}
	return err
}

// sharedDB is the handle on the place's shared store.
func (p *place) sharedDB() *sql.DB { return p.shared.DB() }
