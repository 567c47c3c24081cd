package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/tenancy"
)

// While there are faults, an error is nothing. When they are over, those who lived through them come to rest, and then work
// in calm weather, where each error is a breach: a pool that is stuck, a tenant believed to be out of service, a table that
// is not found would else be taken for what the weather did. All come to rest before any works, so that nobody's tenants are
// changed meanwhile.

const (
	phaseLimit  = 2 * time.Minute // to come to rest, or to work
	settleLimit = time.Minute
	calmLimit   = 10 * time.Second // of a deed
	calmAtOnce  = 16               // deeds of a process: what is late in calm weather is not late because of the others
	calmEnough  = 10               // failures of a process: more say nothing new
	// hearing is what it takes to read of a change, on a busy machine. After it each idle connection is one that is looked at
	// before it is used (after a second), so that one that was cut is no excuse.
	hearing = 1200 * time.Millisecond
)

// phases are those of a process that serves. One begins as the one before ends.
type phases struct {
	storm context.Context // until the first byte of the company
	rest  context.Context // until the second
	calm  context.Context // until the end of what the company says, which ends all of them
}

func phasesOf(in io.Reader) phases {
	calm, endCalm := context.WithCancel(context.Background())
	rest, endRest := context.WithCancel(calm)
	storm, endStorm := context.WithCancel(rest)
	go func() {
		defer endCalm()
		for _, end := range []context.CancelFunc{endStorm, endRest} {
			if _, err := in.Read(make([]byte, 1)); err != nil {
				return
			}
			end()
		}
		_, _ = io.Copy(io.Discard, in)
	}()
	return phases{storm: storm, rest: rest, calm: calm}
}

// calm is what a process does after the storm. It says when it has come to rest, and then how many deeds were done.
func (s *server) calm(p phases, actors []*actor) {
	if p.calm.Err() != nil {
		return
	}
	if err := settled(p.calm, s.app); err != nil {
		s.breach("hung: in calm weather: %v", err)
	}
	fmt.Println(0)
	<-p.rest.Done()
	if p.calm.Err() == nil {
		fmt.Println(s.work(p.calm, actors))
	}
}

// settled waits until no operation is under way.
func settled(ctx context.Context, app *tenancy.App) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		ops, err := app.Operations(ctx)
		going := slices.DeleteFunc(ops, func(op tenancy.Operation) bool { return op.Stopped })
		if err == nil && len(going) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("operations are not over: %+v (%v)", going, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// work does each deed for calm weather once for each tenant that is in service, and returns how many succeeded.
func (s *server) work(ctx context.Context, actors []*actor) int64 {
	time.Sleep(s.app.StalenessBound() + hearing)
	crowd, err := s.active(ctx)
	if err != nil {
		s.breach("lost: in calm weather: reading who is in service: %v", err)
		return 0
	}
	defer runtime.KeepAlive(s.crowd.Swap(&crowd)) // what is known of a tenant is forgotten when nobody has it any more
	type task struct {
		deed deed
		who  tenancy.Tenant
	}
	var todo []task
	for _, d := range deeds {
		for _, who := range crowd {
			if d.calm {
				todo = append(todo, task{d, who})
			}
		}
	}
	s.rng(3000).Shuffle(len(todo), func(i, k int) { todo[i], todo[k] = todo[k], todo[i] }) // not all in one tenant at once
	free := make(chan *actor, len(actors))
	for _, a := range actors {
		free <- a
	}
	var done, failed atomic.Int64
	var all errgroup.Group
	all.SetLimit(calmAtOnce)
	for _, t := range todo {
		if failed.Load() >= calmEnough {
			break
		}
		all.Go(func() error {
			a := <-free
			defer func() { free <- a }()
			if err := a.calmly(ctx, t.deed, t.who); err != nil {
				failed.Add(1)
				s.breach("lost: in calm weather: %s in tenant %s (%s): %v", t.deed.kind, t.who.ID, t.who.Slug, err)
			} else {
				done.Add(1)
			}
			return nil
		})
	}
	_ = all.Wait()
	return done.Load()
}

// active returns who is in service, as an App reads it that has just been opened: the process's own would learn from what it
// reads, and is to have heard of it by itself.
func (s *server) active(ctx context.Context) (all []tenancy.Tenant, err error) {
	app, closeAll, err := open(ctx, s.URL, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for t, err := range app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Active}}) {
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// calmly does one deed, in time.
func (a *actor) calmly(ctx context.Context, d deed, who tenancy.Tenant) error {
	defer a.shed()
	return a.s.do(ctx, "in calm weather: "+d.kind, calmLimit, func(ctx context.Context) error {
		if err := a.act(ctx, d, who, tenancy.Policy{}); err != nil {
			return err
		}
		return ctx.Err()
	})
}

// calmWeather lets those who serve come to rest and then work, and returns what there is to be said against it. All migrators
// are over, and there are no more faults.
func (c *company) calmWeather(ctx context.Context) (breaches []string) {
	breaches = c.next("come to rest")
	if err := c.wake(ctx); err != nil {
		breaches = append(breaches, fmt.Sprintf("lost: in calm weather: activating who is out of service: %v", err))
	}
	return append(breaches, c.next("work in calm weather")...)
}

// wake lets all those in again who are out of service, or read-only: each process has to hear of it by itself.
func (c *company) wake(ctx context.Context) (err error) {
	app, closeAll, err := open(ctx, c.st.direct, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for t, err := range app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Suspended, tenancy.ReadOnly}}) {
		if err == nil {
			_, err = app.Activate(ctx, t.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next has all processes that serve begin their next phase, at once, and waits until they have said that they are done.
func (c *company) next(what string) (breaches []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, p := range c.serving {
		all.Go(func() {
			deeds, err := p.next(phaseLimit)
			mu.Lock()
			defer mu.Unlock()
			c.deeds += deeds
			if err != nil {
				breaches = append(breaches, fmt.Sprintf("hung: a process did not %s: %v", what, err))
			}
		})
	}
	all.Wait()
	return breaches
}

// next has a process begin its next phase, and returns what it says at its end: how many deeds it did.
func (p *process) next(within time.Duration) (deeds int, err error) {
	if _, err := p.in.Write([]byte{'\n'}); err != nil {
		return 0, err
	}
	said := make(chan error, 1)
	var n int
	go func() {
		_, err := fmt.Fscan(p.out, &n)
		said <- err
	}()
	select {
	case err := <-said:
		return n, err
	case <-time.After(within):
		return 0, fmt.Errorf("within %v", within)
	}
}
