package warm

import "math/bits"

// ranks is how many homes a store has.
const ranks = 3

// homes are a store's slots, the first first; -1: none.
type homes [ranks]int

var noHomes = homes{-1, -1, -1}

// homeless reports whether what is to be served has no home: it is of no store, or there are none.
func (p *policy) homeless(key string) bool { return key == "" || p.wait == 0 }

// homesOf returns the slots with a connection that rank highest for a store, by the hash of its name (rendezvous hashing: one
// that comes or goes moves only the stores that it wins or had).
func (p *policy) homesOf(h uint64) homes {
	found := noHomes
	var scores [ranks]uint64
	for i := range p.keep {
		if !p.isHome(i) {
			continue
		}
		score, slot := rank(h, i), i
		for r := 0; r < ranks && slot >= 0; r++ {
			if found[r] < 0 || score > scores[r] {
				found[r], slot = slot, found[r]
				scores[r], score = score, scores[r]
			}
		}
	}
	return found
}

func (p *policy) isHome(i int) bool { return p.slots[i].state >= slotIdle && !p.slots[i].apart }

// homeOf returns the first of them, or -1.
func (p *policy) homeOf(h uint64) int {
	home, best := -1, uint64(0)
	for i := range p.keep {
		if p.isHome(i) {
			if score := rank(h, i); home < 0 || score > best {
				home, best = i, score
			}
		}
	}
	return home
}

// bestIdle returns the idle slot that ranks highest for a store, so that what overflows goes the same way each time; or,
// for what has no home, the one that was used last, so that those that are not needed become old.
func (p *policy) bestIdle(w *waiter) int {
	if w.anywhere {
		return p.lastUsed()
	}
	found, best := -1, uint64(0)
	for word, set := range p.idlers {
		for ; set != 0; set &= set - 1 {
			i := word*64 + bits.TrailingZeros64(set)
			if score := rank(w.hash, i); found < 0 || score > best {
				found, best = i, score
			}
		}
	}
	return found
}

func (p *policy) lastUsed() int {
	last := -1
	for i := range p.slots {
		if s := &p.slots[i]; s.state == slotIdle && (last < 0 || s.since > p.slots[last].since) {
			last = i
		}
	}
	return last
}

// hash is FNV-1a, which is quick for short names, and mixed: names that differ in their last letters only have the same
// high bits in it.
func hash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	return h ^ h>>32
}

// rank is a slot's weight for a store.
func rank(h uint64, slot int) uint64 {
	return mix(h ^ bits.RotateLeft64(uint64(slot+1)*0x9e3779b97f4a7c15, 17))
}
