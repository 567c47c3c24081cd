package main

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tenement-go/tenement/tenancy"
)

// Writers of one SQLite store are served in the order in which they came. From outside that is to be seen in a crowd,
// each of whom keeps the others waiting for a moment: now and then the scheduler forgets one of them, or a whole crowd on a
// busy machine, but on average of several crowds hardly anybody is overtaken. Where there is no queue it is by a half of the
// others, or by all, several times.
const (
	rushers     = 16
	rushWrites  = 8 // of each
	rushHold    = 5 * time.Millisecond
	rushAtLeast = 12 * rushers // were served, or nothing is said
	rushMean    = 2            // may overtake, on average
	rushMost    = 2 * rushers  // are counted, of those who overtake one
)

// line is a queue as those see it who stand in it.
type line struct {
	mu      sync.Mutex
	came    int
	waiting map[int]int // by number in order of coming: how many who came later were served first

	served, overtaken int
}

func (l *line) enter() (number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came++
	l.waiting[l.came] = 0
	return l.came
}

// leave is called when the one with the number was served, or has given up.
func (l *line) leave(number int, served bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	overtaken := l.waiting[number]
	delete(l.waiting, number)
	if !served {
		return
	}
	for other := range l.waiting {
		if other < number {
			l.waiting[other]++
		}
	}
	l.served++
	l.overtaken += min(overtaken, rushMost)
}

// unfair reports whether those who were served were overtaken by too many.
func (l *line) unfair() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served >= rushAtLeast && l.overtaken > rushMean*l.served
}

// rushes has many write to one tenant at once, again and again, until that was found to be unfair.
func (s *server) rushes(ctx context.Context, rng *rand.Rand) {
	a, l := newActor(s, rng), &line{waiting: map[int]int{}}
	for ; ctx.Err() == nil && !l.unfair(); a.pause(ctx, time.Second) {
		crowd := *s.crowd.Load()
		if len(crowd) == 0 {
			continue
		}
		who, seed := crowd[rng.IntN(len(crowd))], rng.Uint64()
		_ = s.do(ctx, "rush", patience, func(ctx context.Context) error {
			return s.app.Run(ctx, who.ID, tenancy.Policy{}, func(ctx context.Context, t *tenancy.Tenant) error {
				return s.rush(ctx, t, seed, l)
			})
		})
	}
	if l.unfair() {
		s.breach("hung: %d writes, by %d to a tenant at once, were overtaken %d times or more by others who came later", l.served, rushers, l.overtaken)
	}
}

func (s *server) rush(ctx context.Context, t *tenancy.Tenant, seed uint64, l *line) error {
	errs := make([]error, rushers)
	var all sync.WaitGroup
	for i := range rushers {
		all.Go(func() {
			v := &visit{actor: newActor(s, rand.New(rand.NewPCG(seed, uint64(i)))), t: t}
			for n := 0; n < rushWrites && errs[i] == nil; n++ {
				errs[i] = v.queue(ctx, l)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// queue writes when it is its turn, and keeps it for a moment.
func (v *visit) queue(ctx context.Context, l *line) error {
	number, mine := l.enter(), false
	defer func() {
		if !mine {
			l.leave(number, false)
		}
	}()
	return v.writing(1, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error {
			if err := v.put(ctx, tx, id, 0); err != nil {
				return err
			}
			mine = true
			l.leave(number, true)
			v.pause(ctx, rushHold)
			return nil
		})
	})
}
