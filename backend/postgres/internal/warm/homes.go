package warm

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	// ranks is how many homes a store has.
	ranks = 3
	// guestRoom is how many stores a slot serves besides those that are at home there: those that it served last, when
	// their homes were busy. With few stores that is all of them. It is bounded because what is served once would be sent
	// there again: little by little every connection would have everything in its caches.
	guestRoom = 96
	// crowdedRoom is for how many there is room once there were more than that: those that their homes cannot serve alone.
	// More would each be served too seldom to be worth the memory (with 1,000 stores of ten texts through eight
	// connections, half of what the server kept, and two thirds of the first sights, were guests').
	crowdedRoom = 8
	// guestTries is among how many guests the one that goes is chosen.
	guestTries = 4
)

// guest is a store that is a guest somewhere.
type guest struct {
	key  string
	hash uint64
	at   []uint64 // the set of slots where
	used uint64   // when it was last served as one
}

func (g *guest) has(slot int) bool {
	return g != nil && slot < 64*len(g.at) && g.at[slot/64]&(1<<(slot%64)) != 0
}

// homes are a store's slots, the first first; -1: none.
type homes [ranks]int

var noHomes = homes{-1, -1, -1}

// homesOf returns the slots with a connection that rank highest for a store (rendezvous hashing: one that comes or goes
// moves only the stores that it wins or had).
func (p *policy) homesOf(key string) homes {
	found := noHomes
	if key == "" || p.wait == 0 {
		return found
	}
	var scores [ranks]uint64
	h := hash(key)
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

// hostOf returns the idle slot that ranks highest among those where a store is a guest, or where there is room for one;
// or -1.
func (p *policy) hostOf(h uint64, g *guest) (host int) {
	if g != nil {
		if host = p.best(h, g.at); host >= 0 {
			return host
		}
	}
	return p.best(h, p.roomy)
}

// everywhere reports whether a store is known to all connections, its home apart.
func (p *policy) everywhere(key string) bool {
	g := p.guests[key]
	if g == nil {
		return false
	}
	known := 1
	for _, word := range g.at {
		known += bits.OnesCount64(word)
	}
	return known >= p.there
}

// hasRoom reports whether a slot has not as many guests as it may have.
func (p *policy) hasRoom(i int) bool { return i < p.keep && p.roomy[i/64]&(1<<(i%64)) != 0 }

// best returns the idle slot of a set that ranks highest for a store, or -1.
func (p *policy) best(h uint64, set []uint64) int {
	found, best := -1, uint64(0)
	for w, word := range set {
		for word &= p.idlers[w]; word != 0; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			if score := rank(h, i); found < 0 || score > best {
				found, best = i, score
			}
		}
	}
	return found
}

// bestIdle returns the idle slot that ranks highest for a store, so that what overflows goes the same way each time; or,
// without homes, the one that was used last, so that those that are not needed become old.
func (p *policy) bestIdle(key string) int {
	if key == "" || p.wait == 0 {
		return p.lastUsed()
	}
	return p.best(hash(key), p.idlers)
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

// receive notes that a slot serves a store that is not at home there; g is what is known of it, or nil.
func (p *policy) receive(i int, g *guest, key string) {
	if key == "" || p.wait == 0 || i >= p.keep || p.slots[i].apart {
		return
	}
	p.clock++
	if g.has(i) {
		g.used = p.clock
		return
	}
	if g == nil {
		g = &guest{key: key, hash: hash(key), at: make([]uint64, (p.keep+63)/64)}
		p.guests[key] = g
	}
	g.used = p.clock
	g.at[i/64] |= 1 << (i % 64)
	s := &p.slots[i]
	if len(s.guests) < s.room {
		if s.guests = append(s.guests, g); len(s.guests) == s.room {
			p.roomy[i/64] &^= 1 << (i % 64)
		}
		return
	}
	if s.room > crowdedRoom {
		p.crowd(i)
	}
	// Near enough to the least recently used.
	goes := s.hand
	for n := range guestTries {
		if at := (s.hand + n) % s.room; s.guests[at].used < s.guests[goes].used {
			goes = at
		}
	}
	s.hand = (s.hand + guestTries) % s.room
	p.dismissGuest(i, s.guests[goes])
	s.guests[goes] = g
}

// crowd says that there are more stores than a slot has room for. Those that it served last stay.
func (p *policy) crowd(i int) {
	s := &p.slots[i]
	slices.SortFunc(s.guests, func(a, b *guest) int { return cmp.Compare(b.used, a.used) })
	for _, g := range s.guests[crowdedRoom:] {
		p.dismissGuest(i, g)
	}
	clear(s.guests[crowdedRoom:])
	s.guests, s.hand, s.room = s.guests[:crowdedRoom], 0, crowdedRoom
}

func (p *policy) dismissGuest(i int, g *guest) {
	g.at[i/64] &^= 1 << (i % 64)
	for _, word := range g.at {
		if word != 0 {
			return
		}
	}
	delete(p.guests, g.key)
}

// forget says that a slot's connection has served nobody.
func (p *policy) forget(i int) {
	s := &p.slots[i]
	for _, g := range s.guests {
		p.dismissGuest(i, g)
	}
	s.guests, s.hand, s.room = s.guests[:0], 0, guestRoom
	if i < p.keep {
		p.roomy[i/64] |= 1 << (i % 64)
	}
}

// hash is FNV-1a, which is quick for short names.
func hash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}

// rank is a slot's weight for a store.
func rank(h uint64, slot int) uint64 {
	h ^= bits.RotateLeft64(uint64(slot+1)*0x9e3779b97f4a7c15, 17)
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	return h ^ h>>32
}
