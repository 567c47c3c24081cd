package warm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeConn notes who uses it.
type fakeConn struct {
	id       int
	used     atomic.Bool
	detached bool
	broken   bool
}

var errFull = errors.New("sorry, too many clients already")

// fakePool is a pool of limit connections on a server that has places for some.
type fakePool struct {
	t      *testing.T
	mu     sync.Mutex
	free   chan struct{} // places of the pool
	places int           // of the server
	idle   []*fakeConn
	open   int // connections at the server
	most   int
	made   int
	out    map[*fakeConn]bool
	cost   time.Duration
	err    error
}

func newFakePool(t *testing.T, limit, places int) *fakePool {
	f := &fakePool{t: t, free: make(chan struct{}, limit), places: places, out: map[*fakeConn]bool{}, cost: 5 * time.Millisecond}
	for range limit {
		f.free <- struct{}{}
	}
	return f
}

func (f *fakePool) Open(ctx context.Context) (*fakeConn, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.free:
	}
	f.mu.Lock()
	if n := len(f.idle); n > 0 {
		c := f.idle[n-1]
		f.idle = f.idle[:n-1]
		f.out[c] = true
		f.mu.Unlock()
		return c, nil
	}
	err := f.err
	if f.open == f.places {
		err = errFull
	}
	if err == nil {
		f.open++
		f.most = max(f.most, f.open)
		f.made++
	}
	c := &fakeConn{id: f.made}
	f.mu.Unlock()
	time.Sleep(f.cost)
	if err != nil {
		f.free <- struct{}{}
		return nil, err
	}
	f.mu.Lock()
	f.out[c] = true
	f.mu.Unlock()
	return c, nil
}

func (f *fakePool) GiveBack(c *fakeConn, spent bool) {
	f.mu.Lock()
	assert.True(f.t, f.out[c], "given back what was not out")
	assert.False(f.t, c.used.Load(), "given back while it is used")
	delete(f.out, c)
	if spent || c.detached || c.broken {
		f.open--
	} else {
		f.idle = append(f.idle, c)
	}
	f.mu.Unlock()
	if !c.detached {
		f.free <- struct{}{}
	}
}

func (f *fakePool) Detach(c *fakeConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.detached {
		c.detached = true
		f.free <- struct{}{}
	}
}

// state tells how many connections are open, were open at most, were made and are out, and how many places are free.
func (f *fakePool) state() (s struct{ open, most, made, out, free, idle int }) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.open, s.most, s.made, s.out, s.free, s.idle = f.open, f.most, f.made, len(f.out), len(f.free), len(f.idle)
	return s
}

func config(slots int) Config {
	return Config{
		Slots: slots, Keep: slots, Wait: 3 * time.Millisecond, Brief: 700 * time.Microsecond,
		Idle: time.Minute, ApartIdle: time.Second,
	}
}

// use takes a connection, works for d and gives it back.
func use(t *testing.T, k *Keeper[*fakeConn], l Lease[*fakeConn], d time.Duration, fate Fate) {
	assert.True(t, l.Conn.used.CompareAndSwap(false, true), "two have the same connection")
	time.Sleep(d)
	l.Conn.used.Store(false)
	if fate == Discard {
		l.Conn.broken = true
	}
	k.Give(l, fate)
}

// S73: goroutines that come and go, are cancelled, break connections, and have them retired; pools of 1, 2, 4 and 16.
func TestKeeperAtRandom(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 4, 16} {
		for _, lent := range []bool{false, true} {
			for seed := range uint64(5) {
				t.Run(fmt.Sprint(slots, lent, seed), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { storm(t, slots, lent, seed) })
				})
			}
		}
	}
}

func storm(t *testing.T, slots int, lent bool, seed uint64) {
	pool := newFakePool(t, slots, slots+1)
	cfg := config(slots)
	if lent {
		cfg.Keep, cfg.Idle = slots/2, time.Second
	}
	k := New(pool, cfg)
	var wg sync.WaitGroup
	var served, cancelled atomic.Int64
	for g := range 24 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 200 {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if rnd.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(int(10*time.Millisecond))))
				}
				store := ""
				if n := rnd.IntN(60); n > 0 {
					store = fmt.Sprint("s", n)
				}
				var l Lease[*fakeConn]
				var err error
				apart := rnd.IntN(100) == 0
				if apart {
					l, err = k.TakeApart(ctx)
				} else {
					l, err = k.Take(ctx, store)
				}
				cancel()
				if err != nil {
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					cancelled.Add(1)
					continue
				}
				served.Add(1)
				d := time.Duration(rnd.IntN(int(100 * time.Microsecond)))
				if rnd.IntN(50) == 0 {
					k.Hold(l)
					d = 20 * time.Millisecond
				}
				fate := Reuse
				switch rnd.IntN(100) {
				case 0:
					fate = Discard
				case 1, 2:
					fate = Retire
				case 3:
					fate = Return
				}
				use(t, k, l, d, fate)
				if rnd.IntN(20) == 0 {
					time.Sleep(time.Duration(rnd.IntN(int(2 * time.Second))))
				}
			}
		})
	}
	if lent {
		// The pool's other users are never starved.
		wg.Go(func() {
			for range 200 {
				begun := time.Now()
				c, err := pool.Open(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				assert.Less(t, time.Since(begun), 2*time.Second)
				time.Sleep(time.Millisecond)
				pool.GiveBack(c, false)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	s := k.Stats()
	require.Zero(t, s.Waiting)
	require.Positive(t, served.Load())
	require.LessOrEqual(t, pool.state().most, slots+1, "one more than the limit while a successor is opened")
	k.Close()
	synctest.Wait()
	time.Sleep(time.Minute)
	require.Zero(t, pool.state().out, "a connection was not given back")
	require.Equal(t, slots, pool.state().free)
	_, err := k.Take(t.Context(), "a")
	require.ErrorIs(t, err, ErrClosed)
}

// S73: closed at any moment, nobody is left waiting and nothing is left out.
func TestKeeperClosedInTheMiddle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			pool := newFakePool(t, 4, 5)
			k := New(pool, config(4))
			var wg sync.WaitGroup
			for g := range 12 {
				wg.Go(func() {
					for i := range 1000 {
						take := k.Take
						if g == 0 {
							take = func(ctx context.Context, _ string) (Lease[*fakeConn], error) { return k.TakeApart(ctx) }
						}
						l, err := take(t.Context(), fmt.Sprint("s", (g*31+i)%40))
						if err != nil {
							assert.ErrorIs(t, err, ErrClosed)
							return
						}
						use(t, k, l, 50*time.Microsecond, Fate(i%97/95)) // some are retired
					}
				})
			}
			time.Sleep(time.Duration(rnd.IntN(int(30 * time.Millisecond))))
			k.Close()
			wg.Wait()
			time.Sleep(time.Minute)
			require.Zero(t, pool.state().out)
			require.Equal(t, 4, pool.state().free)
		})
	}
}

// TestKeeperSuccessor: the old connection serves until the new one is there, and its slot stays its stores' home.
func TestKeeperSuccessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 1, 2)
		k := New(pool, config(1))
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		first := l.Conn
		k.Give(l, Retire)
		l, err = k.Take(t.Context(), "a")
		require.NoError(t, err)
		require.Same(t, first, l.Conn, "its successor is being opened")
		time.Sleep(time.Second)
		synctest.Wait()
		k.Give(l, Reuse)
		l, err = k.Take(t.Context(), "a")
		require.NoError(t, err)
		require.NotSame(t, first, l.Conn)
		require.Equal(t, 1, pool.state().open, "the old one is closed")
		require.Equal(t, 2, pool.state().most)
		require.Equal(t, uint64(1), k.Stats().Retired)

		// Without a place for a successor the only connection stays.
		pool.mu.Lock()
		pool.places = 1
		pool.mu.Unlock()
		last := l.Conn
		for range 3 {
			k.Give(l, Retire)
			time.Sleep(100 * time.Millisecond)
			l, err = k.Take(t.Context(), "a")
			require.NoError(t, err)
			require.Same(t, last, l.Conn)
		}
		k.Give(l, Reuse)
		k.Close()
		require.Equal(t, pool.state().idle, pool.state().open)
	})
}

// TestKeeperApart: what goes through every store has connections of its own, which are closed afterwards.
func TestKeeperApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 2, 3)
		k := New(pool, config(2))
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		ours := l.Conn
		k.Give(l, Reuse)
		apart, err := k.TakeApart(t.Context())
		require.NoError(t, err)
		require.NotSame(t, ours, apart.Conn, "there is room for a new one")
		own := apart.Conn
		k.Give(apart, Reuse)
		for range 3 {
			apart, err = k.TakeApart(t.Context())
			require.NoError(t, err)
			require.Same(t, own, apart.Conn, "it is kept for a moment")
			k.Give(apart, Reuse)
			l, err = k.Take(t.Context(), fmt.Sprint("s", pool.state().made))
			require.NoError(t, err)
			require.Same(t, ours, l.Conn, "nobody else gets it while there are others")
			k.Give(l, Reuse)
		}
		// Somebody who is overdue is not left waiting for it.
		l, err = k.Take(t.Context(), "a")
		require.NoError(t, err)
		other, err := k.Take(t.Context(), "b")
		require.NoError(t, err)
		require.Same(t, own, other.Conn)
		k.Give(other, Reuse)
		k.Give(l, Reuse)
		require.Equal(t, 2, pool.state().open)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, pool.state().open, "it is closed after a while")

		// Without room, it is one of the others, which is closed all the same.
		l, err = k.Take(t.Context(), "a")
		require.NoError(t, err)
		second, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		k.Give(l, Reuse)
		k.Give(second, Reuse)
		apart, err = k.TakeApart(t.Context())
		require.NoError(t, err)
		k.Give(apart, Reuse)
		require.Equal(t, 2, pool.state().open)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, pool.state().open)
		k.Close()
	})
}

// TestKeeperApartIsSucceeded: a connection that is to be retired goes to what goes through every store before its successor
// is there. It is closed with its successor then, and the next one is served, and retired, as ever.
func TestKeeperApartIsSucceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 1, 8)
		k := New(pool, config(1))
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		k.Give(l, Retire)
		apart, err := k.TakeApart(t.Context())
		require.NoError(t, err)
		require.Same(t, l.Conn, apart.Conn)
		k.Give(apart, Reuse)
		time.Sleep(2 * time.Second)
		require.Equal(t, 2, pool.state().made, "its successor came in between")
		require.Zero(t, pool.state().open)

		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			next, err := k.Take(ctx, "a")
			require.NoError(t, err)
			require.NotSame(t, l.Conn, next.Conn)
			l = next
			k.Give(l, Retire)
			time.Sleep(time.Second)
		}
		k.Close()
		require.Equal(t, pool.state().idle, pool.state().open)
	})
}

// TestKeeperApartOfALentPool: a fleet run does not keep a lent pool from its other users, for as long as it goes on: nobody
// waits for more than a use, and between the uses no more than half is kept, homes and what is apart together.
func TestKeeperApartOfALentPool(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 4} {
		for homes := range slots/2 + 1 {
			t.Run(fmt.Sprint(slots, homes), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					pool := newFakePool(t, slots, slots)
					cfg := config(slots)
					cfg.Keep = slots / 2
					k := New(pool, cfg)
					var held []Lease[*fakeConn]
					for n := range homes {
						l, err := k.Take(t.Context(), fmt.Sprint("s", n))
						require.NoError(t, err)
						held = append(held, l)
					}
					for _, l := range held {
						k.Give(l, Reuse)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					var run sync.WaitGroup
					for range slots {
						run.Go(func() {
							for ctx.Err() == nil {
								l, err := k.TakeApart(t.Context())
								if !assert.NoError(t, err) {
									return
								}
								use(t, k, l, time.Millisecond, Reuse)
								time.Sleep(time.Millisecond)
							}
						})
					}
					for range 50 {
						begun := time.Now()
						c, err := pool.Open(ctx)
						if !assert.NoError(t, err) {
							break
						}
						assert.LessOrEqual(t, time.Since(begun), 20*time.Millisecond)
						pool.GiveBack(c, false)
						time.Sleep(3 * time.Millisecond)
					}
					cancel()
					run.Wait()
					synctest.Wait()
					require.LessOrEqual(t, pool.state().out, cfg.Keep)
					k.Close()
					require.Zero(t, pool.state().out)
				})
			})
		}
	}
}

// TestKeeperFull: two processes with pools of 16 on a server of 20 (issue: 40 % of the statements failed).
func TestKeeperFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 16, 3)
		k := New(pool, config(16))
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		k.Give(l, Reuse)
		var wg sync.WaitGroup
		for g := range 24 {
			wg.Go(func() {
				for i := range 50 {
					l, err := k.Take(t.Context(), fmt.Sprint("s", g*50+i))
					if assert.NoError(t, err) {
						use(t, k, l, 20*time.Millisecond, Reuse)
					}
				}
			})
		}
		wg.Wait()
		// A wait ends with its context, and says why there was no other connection.
		var held []Lease[*fakeConn]
		for range 3 {
			l, err := k.Take(t.Context(), "")
			require.NoError(t, err)
			held = append(held, l)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = k.Take(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errFull)
		for _, l := range held {
			k.Give(l, Discard)
			l.Conn.broken = true
		}
		k.Close()
	})
}

// TestKeeperRefusedLongAgo: a wait that ends with its context has not ended for why others had none hours ago.
func TestKeeperRefusedLongAgo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 2, 1)
		k := New(pool, config(2))
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		wait := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := k.Take(ctx, "a")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return err
		}
		require.ErrorIs(t, wait(100*time.Millisecond), errFull)
		require.ErrorIs(t, wait(100*time.Millisecond), errFull, "the server was not asked again yet")
		pool.mu.Lock()
		pool.cost = time.Minute
		pool.mu.Unlock()
		time.Sleep(time.Second)
		require.ErrorIs(t, wait(2*time.Minute), errFull, "and then it was refused again")
		time.Sleep(6 * time.Hour)
		require.NotErrorIs(t, wait(time.Second), errFull, "the server has not answered yet")
		time.Sleep(time.Minute)
		k.Give(l, Reuse)
		k.Close()
	})
}

// TestKeeperWithoutServer: with no connection at all, an error is everybody's at once.
func TestKeeperWithoutServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 4, 4)
		refused := errors.New("connection refused")
		pool.err = refused
		k := New(pool, config(4))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				begun := time.Now()
				_, err := k.Take(t.Context(), "a")
				assert.ErrorIs(t, err, refused)
				assert.LessOrEqual(t, time.Since(begun), 10*time.Millisecond)
			})
		}
		wg.Wait()
		pool.mu.Lock()
		pool.err = nil
		pool.mu.Unlock()
		l, err := k.Take(t.Context(), "a")
		require.NoError(t, err)
		k.Give(l, Reuse)
		k.Close()
	})
}

// S90: an attempt that was begun before a call does not fail it: the server may be there again.
func TestKeeperServerComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 1, 1)
		refused := errors.New("connection refused")
		pool.err = refused
		k := New(pool, config(1))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := k.Take(t.Context(), "a")
			assert.ErrorIs(t, err, refused)
		})
		time.Sleep(pool.cost / 2)
		pool.mu.Lock()
		pool.err = nil
		pool.mu.Unlock()
		for range 3 {
			wg.Go(func() {
				l, err := k.Take(t.Context(), "b")
				if assert.NoError(t, err) {
					k.Give(l, Reuse)
				}
			})
		}
		wg.Wait()
		k.Close()
	})
}

// A server that stays away is everybody's error in bounded time, however many others come meanwhile.
func TestKeeperServerStaysAway(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 4, 16} {
		synctest.Test(t, func(t *testing.T) {
			pool := newFakePool(t, slots, slots)
			refused := errors.New("connection refused")
			pool.err = refused
			k := New(pool, config(slots))
			var wg sync.WaitGroup
			for n := range 500 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					begun := time.Now()
					var err error
					if n%10 == 0 {
						_, err = k.TakeApart(ctx)
					} else {
						_, err = k.Take(ctx, fmt.Sprint("s", n%7))
					}
					assert.ErrorIs(t, err, refused)
					// What was begun before it, its own attempt, and what was under way when that failed.
					assert.LessOrEqual(t, time.Since(begun), 3*pool.cost, "%d of %d slots", n, slots)
				})
				time.Sleep(pool.cost / 7)
			}
			wg.Wait()
			k.Close()
		})
	}
}

// TestKeeperGivesBack: idle connections go back to the pool, which has other users when it is lent.
func TestKeeperGivesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := newFakePool(t, 4, 4)
		cfg := config(4)
		cfg.Keep, cfg.Idle = 2, time.Second
		k := New(pool, cfg)
		var held []Lease[*fakeConn]
		for i := range 4 {
			l, err := k.Take(t.Context(), fmt.Sprint("s", i))
			require.NoError(t, err)
			held = append(held, l)
		}
		for _, l := range held {
			k.Give(l, Reuse)
		}
		require.Equal(t, 2, pool.state().free, "half of them are kept")
		time.Sleep(2 * time.Second)
		require.Equal(t, 4, pool.state().free)
		k.Close()
	})
}

func BenchmarkKeeper(b *testing.B) {
	pool := newFakePool(nil, 8, 8)
	pool.cost = 0
	k := New(pool, config(8))
	defer k.Close()
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprint("tenant-number-", i)
		l, _ := k.Take(b.Context(), keys[i])
		k.Give(l, Reuse)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l, _ := k.Take(b.Context(), keys[i%len(keys)])
		k.Give(l, Reuse)
	}
}
