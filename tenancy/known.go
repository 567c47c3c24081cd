package tenancy

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// bucket limits how often names that lead nowhere are asked for.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

const (
	missBurst = 32 // also how many cold names may be asked for at once before knownNames is built
	missRate  = 4  // per second
)

func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.at.IsZero() {
		b.tokens = missBurst
	} else {
		b.tokens = min(missBurst, b.tokens+now.Sub(b.at).Seconds()*missRate)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) refund() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(missBurst, b.tokens+1)
}

// knownNames is the set of all hosts, slugs and IDs, as 64-bit hashes under a secret seed: 8 bytes a name. It is built
// when someone floods the server with names that lead nowhere, kept up to date while that goes on, and dropped after.
type knownNames struct {
	mu      sync.Mutex
	set     *nameSet
	next    *nameSet // being built
	built   chan struct{}
	err     error
	made    time.Time // when set was built
	touched time.Time
}

type nameSet struct {
	seed   maphash.Seed
	sorted []uint64
	added  map[uint64]struct{}
}

// knownIdle is how long the set is kept when it is not asked.
const knownIdle = time.Minute

func (s *nameSet) hash(kind, key string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.WriteString(kind)
	h.WriteByte(' ')
	h.WriteString(key)
	return h.Sum64()
}

// has reports whether there is such a name, or was since the set was built.
func (k *knownNames) has(ctx context.Context, a *App, kind, key string) (bool, error) {
	k.mu.Lock()
	if k.set != nil && time.Since(k.made) > a.cfg.UnknownTTL {
		k.set = nil // what others added is heard of by polling; should that fail, it is not for longer than this
	}
	for k.set == nil {
		if k.built == nil {
			k.next = &nameSet{seed: maphash.MakeSeed(), added: map[uint64]struct{}{}}
			k.built = make(chan struct{})
			go k.build(a, k.next, k.built)
		}
		built := k.built
		k.mu.Unlock()
		select {
		case <-built:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		k.mu.Lock()
		if k.set == nil && k.err != nil {
			err := k.err
			k.mu.Unlock()
			return false, err
		}
	}
	defer k.mu.Unlock()
	k.touched = time.Now()
	h := k.set.hash(kind, key)
	if _, ok := slices.BinarySearch(k.set.sorted, h); ok {
		return true, nil
	}
	_, ok := k.set.added[h]
	return ok, nil
}

func (k *knownNames) build(a *App, s *nameSet, built chan struct{}) {
	ctx, cancel := context.WithTimeout(a.ctx, max(a.cfg.LookupTimeout, 30*time.Second))
	defer cancel()
	a.reg.queries()
	sorted, err := readNames(ctx, a.reg.db, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == s {
		if k.err = err; err == nil {
			s.sorted = sorted
			k.set, k.made, k.touched = s, time.Now(), time.Now()
		}
		k.next, k.built = nil, nil
	}
	close(built)
}

func readNames(ctx context.Context, q querier, s *nameSet) ([]uint64, error) {
	rows, err := q.QueryContext(ctx, `SELECT 'host', host FROM tenement_domains UNION ALL SELECT 'slug', slug FROM tenement_tenants
		UNION ALL SELECT 'id', id FROM tenement_tenants`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var sorted []uint64
	for rows.Next() {
		var kind, key string
		if err := rows.Scan(&kind, &key); err != nil {
			return nil, err
		}
		sorted = append(sorted, s.hash(kind, key))
	}
	slices.Sort(sorted)
	return slices.Clip(sorted), rows.Err()
}

// add keeps the set complete as names come up.
func (k *knownNames) add(t *Tenant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range []*nameSet{k.set, k.next} {
		if s == nil {
			continue
		}
		s.added[s.hash("slug", t.Slug)] = struct{}{}
		s.added[s.hash("id", string(t.ID))] = struct{}{}
		for _, d := range t.Domains {
			s.added[s.hash("host", d.Host)] = struct{}{}
		}
	}
}

// forget drops the set: always, or when no one needed it for a while.
func (k *knownNames) forget(always bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if always {
		// Who waits for the one being built starts over.
		k.set, k.next, k.built, k.err = nil, nil, nil, nil
	} else if k.set != nil && (time.Since(k.touched) > knownIdle || len(k.set.added) > len(k.set.sorted)+100_000) {
		k.set = nil
	}
}
