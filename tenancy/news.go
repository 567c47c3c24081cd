package tenancy

import "sync"

// news are the changes by others that the application is to be told of, in their order.
type news struct {
	mu      sync.Mutex
	waiting []Event
	telling bool
}

func (n *news) add(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting = append(n.waiting, e)
}

// each calls tell for one after the other. It does nothing where that is being done already, be it that tell itself asks.
func (n *news) each(tell func(Event)) {
	if !n.begin() {
		return
	}
	for e, ok := n.next(); ok; e, ok = n.next() {
		tell(e)
	}
}

// due reports whether there is something that nobody is telling.
func (n *news) due() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.waiting) > 0 && !n.telling
}

func (n *news) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	began := !n.telling
	n.telling = true
	return began
}

// next returns the next one; when there is none, somebody else may begin.
func (n *news) next() (e Event, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.telling = len(n.waiting) > 0; !n.telling {
		return e, false
	}
	e = n.waiting[0]
	n.waiting = n.waiting[1:]
	return e, true
}
