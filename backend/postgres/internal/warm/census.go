package warm

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// regulars knows which stores are used so often that all connections should know them: those who wait for the home of such
// a store would be many, and what it takes in all the caches is little, since there are few such stores. It counts uses
// by the hash of a store's name, and forgets the half of them every so often. It is not safe for concurrent use.
type regulars struct {
	uses [1 << regularBits]uint8
	hand int // what is halved next
}

const (
	regularBits = 14
	// regularUses of the last regularWindow to twice as many make a store a regular: there can be no more than some two
	// hundred of them.
	regularUses   = 24
	regularWindow = 4096
)

// note counts a use.
func (r *regulars) note(h uint64) {
	if n := &r.uses[h>>(64-regularBits)]; *n < 255 {
		*n++
	}
	for range len(r.uses) / regularWindow {
		r.uses[r.hand] /= 2
		r.hand = (r.hand + 1) % len(r.uses)
	}
}

func (r *regulars) has(h uint64) bool { return r.uses[h>>(64-regularBits)] >= regularUses }

// census estimates how many pairs of store and text are in use. Where they are few, each connection may see them all, and
// no store needs a home. It is safe for concurrent use.
type census struct {
	limit int    // of what are few
	tell  func() // few has changed

	now, before bitmap // of the pairs that were used in this window and in the one before, by their hash
	distinct    atomic.Int64
	used        atomic.Int64
	few         atomic.Bool
	turn        sync.Mutex
}

const (
	// windowOf is how many uses a window has for each of the pairs that are few: if there are no more, it sees nearly all.
	windowOf = 8
	// mostFew bounds the limit, and with it the memory: 256 KB.
	mostFew = 1 << 16
)

// newCensus returns one to which as many as limit, or mostFew, are few. It calls tell when it has changed its mind, at times
// from several goroutines at once: what holds is few, as it is then. At first they are few.
func newCensus(limit int, tell func()) *census {
	limit = min(limit, mostFew)
	size := 1
	for size < 16*limit { // so that hardly any two are at the same place
		size *= 2
	}
	c := &census{limit: limit, tell: tell, now: newBitmap(size), before: newBitmap(size)}
	c.few.Store(limit > 0)
	return c
}

// note counts a use of a pair.
func (c *census) note(h uint64) {
	if c.now.add(h) && c.distinct.Add(1) > int64(c.limit) && c.few.CompareAndSwap(true, false) {
		c.tell()
	}
	if c.used.Add(1) >= int64(windowOf*c.limit) {
		c.next()
	}
}

// next begins a window. Uses that are noted meanwhile may count in either.
func (c *census) next() {
	if !c.turn.TryLock() {
		return
	}
	defer c.turn.Unlock()
	few := c.now.moveTo(c.before) <= c.limit
	c.distinct.Store(0)
	c.used.Store(0)
	if c.few.CompareAndSwap(!few, few) {
		c.tell()
	}
}

// bitmap is a set of hashes, some of which may be taken for each other.
type bitmap []atomic.Uint64

func newBitmap(size int) bitmap { return make(bitmap, max(size/64, 1)) }

// add reports whether the hash was not there.
func (b bitmap) add(h uint64) bool {
	word, bit := &b[h/64%uint64(len(b))], uint64(1)<<(h%64)
	return word.Load()&bit == 0 && word.Or(bit)&bit == 0
}

// moveTo empties b into old, whose own are forgotten, and returns how many were in either.
func (b bitmap) moveTo(old bitmap) (either int) {
	for i := range b {
		now := b[i].Swap(0)
		either += bits.OnesCount64(now | old[i].Swap(now))
	}
	return either
}
