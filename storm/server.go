package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// envOrder makes the command a process of a storm instead.
const envOrder = "TENEMENT_STORM_ORDER"

// order is what a process of a storm is to do.
type order struct {
	URL         string
	Journal     string // the directory
	Incarnation int
	Seed        uint64
	Actors      int
	Keepers     int
	Tenants     int
	Late        time.Duration // by how much an operation may outlive its context
	Migrate     int           // bring all stores to this version, instead of serving
	Errand      errand        // do that, instead of serving
	Soak        time.Duration // serve for so long, and say what that takes
	Crowd       bool          // the same of a great many tenants
}

// serveUntil is the process: it serves until in is at its end; what is said there before begins its phases.
func serveUntil(text string, in io.Reader) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	switch {
	case o.Errand.Op != "":
		return runErrand(o)
	case o.Soak > 0:
		return runSoak(o)
	case o.Crowd:
		return runCrowd(o)
	}
	j, err := openJournal(o.Journal, o.Incarnation)
	if err != nil {
		return err
	}
	defer leaks(j, openFiles())
	if o.Migrate > 0 {
		migrateAll(context.Background(), o, j)
		return nil
	}
	s := &server{order: o, j: j, errors: map[string]int{}}
	s.run(phasesOf(in))
	return nil
}

// The limits of what takes moments, in a storm and on a busy machine too.
const (
	openLimit      = 90 * time.Second
	migrationLimit = 5 * time.Minute // an index that is made CONCURRENTLY waits for each older transaction of the database
	leakLimit      = time.Minute
)

// open opens the tenants, for as long as it takes the database to be there.
func open(ctx context.Context, url string, version int) (app *tenancy.App, closeAll func() error, err error) {
	cfg := tenancy.Config{PollInterval: 200 * time.Millisecond, Behind: migrate.Migrate}
	cfg.Shared, cfg.Tenant = sources(version)
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		be, err := backend.Open(ctx, url)
		if err == nil {
			cfg.Hooks.OnCreate = func(ctx context.Context, t tenancy.Tenant, _ tenancy.Seed) error {
				_, err := be.DB().ExecContext(ctx, sqlInsert, 0, 0, string(t.ID))
				if err == nil && poisoned(t.ID) {
					_, err = be.DB().ExecContext(ctx, sqlInsert, poison, 0, string(t.ID))
				}
				return err
			}
			if app, err = tenancy.Open(ctx, be, cfg); err == nil {
				return app, func() error { return errors.Join(app.Close(), be.Close()) }, nil
			}
			err = errors.Join(err, be.Close())
		}
		if time.Since(began) > openLimit || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

// server is a process that serves.
type server struct {
	order
	j     *journal
	app   *tenancy.App
	crowd atomic.Pointer[[]tenancy.Tenant] // as they were a moment ago

	ops   atomic.Int64 // statements that were answered, and the answers looked at
	under sync.Map     // *operation: what is under way

	mu     sync.Mutex
	errors map[string]int
}

func (s *server) breach(format string, args ...any) { s.j.breach(format, args...) }

func (s *server) run(p phases) {
	app, closeAll, err := open(p.calm, s.URL, 1)
	if err != nil {
		if p.calm.Err() == nil {
			s.breach("hung: a process cannot open its tenants: %v", err)
		}
		return
	}
	s.app = app
	s.crowd.Store(&[]tenancy.Tenant{})
	s.look(p.storm)
	actors := make([]*actor, s.Actors)
	for i := range actors {
		actors[i] = newActor(s, s.rng(i))
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.serve(p.storm, actors)
		s.calm(p, actors)
		for _, a := range actors {
			a.close()
		}
	}()
	s.watch(p.storm, over)
	s.j.note(lineCount, fmt.Sprint(s.ops.Load()))
	for text, n := range s.errors {
		s.j.note(lineError, fmt.Sprintf("%d %s", n, text))
	}
	if err := closeAll(); err != nil {
		s.breach("leak: closing: %v", err)
	}
}

// serve lets everybody at the tenants, until ctx ends.
func (s *server) serve(ctx context.Context, actors []*actor) {
	var all sync.WaitGroup
	for i := range s.Keepers {
		all.Go(func() { (&keeper{s: s, rng: s.rng(1000 + i)}).run(ctx) })
	}
	for _, a := range actors {
		all.Go(func() { a.run(ctx) })
	}
	if !isPostgres(s.app.Backend()) { // which has no such queue
		all.Go(func() { s.rushes(ctx, s.rng(2000)) })
	}
	all.Wait()
}

func (s *server) rng(i int) *rand.Rand {
	return rand.New(rand.NewPCG(s.Seed, uint64(s.Incarnation)<<32|uint64(i)))
}

// watch looks at the tenants until ctx ends, and at what is under way until all is over.
func (s *server) watch(ctx context.Context, over chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		s.j.note(lineCount, fmt.Sprint(s.ops.Load()))
		s.look(ctx)
		s.under.Range(func(k, _ any) bool {
			op := k.(*operation)
			if by := op.outlived(); by > s.Late {
				op.reported.Do(func() {
					s.breach("hung: %s goes on %v after its context ended; see %s", op.kind, by, stacks())
				})
			}
			return true
		})
	}
}

// stacks writes what all goroutines are at to a file that stays, and returns its name.
func stacks() string {
	f, err := os.CreateTemp("", "storm-*.stacks")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	_ = pprof.Lookup("goroutine").WriteTo(f, 2)
	return f.Name()
}

// look reads who the tenants are.
func (s *server) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all []tenancy.Tenant
	for t, err := range s.app.Tenants(ctx, tenancy.Filter{}) {
		if err != nil {
			return
		}
		all = append(all, t)
	}
	s.crowd.Store(&all)
}

// operation is one unit of work, with a context of its own.
type operation struct {
	kind     string
	ended    atomic.Int64 // when its context did
	reported sync.Once
}

func (op *operation) outlived() time.Duration {
	if at := op.ended.Load(); at != 0 {
		return time.Since(time.Unix(0, at))
	}
	return 0
}

// do times and reports an operation that has until limit.
func (s *server) do(ctx context.Context, kind string, limit time.Duration, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	op := &operation{kind: kind}
	stop := context.AfterFunc(ctx, func() { op.ended.Store(time.Now().UnixNano()) })
	defer stop()
	s.under.Store(op, nil)
	err := fn(ctx)
	s.under.Delete(op)
	if by := op.outlived(); by > s.Late {
		s.breach("hung: %s returned %v after its context ended: %v", kind, by, err)
	}
	if err != nil {
		s.tally(kind, err)
	}
	return err
}

// tally counts errors by what they say, without what differs.
func (s *server) tally(kind string, err error) {
	text := err.Error()
	for _, known := range []error{
		context.Canceled, context.DeadlineExceeded, tenancy.ErrNotActive, tenancy.ErrNotFound, tenancy.ErrConflict, tenancy.ErrStatus,
		backend.ErrStoreMissing, backend.ErrReadOnly, backend.ErrOutcomeUnknown, backend.ErrBusy, backend.ErrLockLost, tenancy.ErrUnavailable,
	} {
		if errors.Is(err, known) {
			text = known.Error()
			break
		}
	}
	if len(text) > 160 {
		text = text[len(text)-160:]
	}
	text = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors[kind+": "+text]++
}

// leaks looks for what is left when all is closed, of a process that had so many files open at first.
func leaks(j *journal, before int) {
	// Closing waits for no one: connections say goodbye to a server that may not be there.
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err, now := goleak.Find(), openFiles()
		if err == nil && now <= before {
			return
		}
		if time.Since(began) > leakLimit {
			j.breach("leak: %d files are open, %d were; %v", now, before, err)
			return
		}
	}
}

// openFiles counts the process's descriptors; 0 where that cannot be asked.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// migrateAll is a deployment: a binary of a later version migrates all stores.
func migrateAll(ctx context.Context, o order, j *journal) {
	ctx, cancel := context.WithTimeout(ctx, migrationLimit)
	defer cancel()
	app, closeAll, err := open(ctx, o.URL, o.Migrate)
	if err != nil {
		j.breach("hung: a migrator cannot open its tenants: %v", err)
		return
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	if _, err = app.Migrator().Up(ctx, migrate.UpOptions{}); err != nil {
		j.note(lineError, fmt.Sprintf("1 migrate: %.200v", err))
		if ctx.Err() != nil {
			j.breach("hung: a fleet migration was not over after %v: %.200v", migrationLimit, err)
		}
	}
	if err := closeAll(); err != nil {
		j.breach("leak: closing: %v", err)
	}
}
