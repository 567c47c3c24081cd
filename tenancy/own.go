package tenancy

import (
	"slices"
	"sync"
)

// ownChanges are the changes that this App made and that no poll has seen yet: they are known already.
type ownChanges struct {
	mu     sync.Mutex
	nonces map[string]struct{}
	last   mark // the latest of them
	off    bool
}

func (o *ownChanges) add(touched []touch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.off {
		return
	}
	if o.nonces == nil {
		o.nonces = map[string]struct{}{}
	}
	for _, t := range touched {
		o.nonces[t.nonce] = struct{}{}
		if t.revision > o.last.revision {
			o.last = mark{t.revision, t.nonce}
		}
	}
}

// latest is the latest change that this App made.
func (o *ownChanges) latest() mark {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// others returns the changes that somebody else made, and forgets those of its own among them.
func (o *ownChanges) others(changes []touch) []touch {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(changes), func(c touch) bool {
		_, own := o.nonces[c.nonce]
		delete(o.nonces, c.nonce)
		return own
	})
}

// pause forgets all of them and adds none until it is resumed: each change is then read anew, by whomever it was made.
func (o *ownChanges) pause() (resume func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nonces, o.last, o.off = nil, mark{}, true
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.off = false
	}
}
