package sqlite

import (
	"os"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// watch closes stores: the ones that were unused for longest, a few ahead of need, so that whoever opens one does not have
// to close another first; and those that another process wants to rename.
func (sh *shelf) watch(stop <-chan struct{}) {
	tick := time.NewTicker(noticeWithin)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-sh.trim:
			if sh.tooFull() && sh.closeOldest(false) {
				sh.askToTrim() // one at a time: between two, what else is due has its chance
			}
		case <-tick.C:
			sh.yieldMoving()
		}
	}
}

// askToTrim has the janitor look whether the shelf is too full.
func (sh *shelf) askToTrim() {
	select {
	case sh.trim <- struct{}{}:
	default:
	}
}

func (sh *shelf) tooFull() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.count > sh.most-min(8, sh.most/16)
}

func (sh *shelf) yieldMoving() {
	entries, err := os.ReadDir(sh.b.moving())
	if err != nil {
		return // asked again at the next tick; the other process waits
	}
	for _, e := range entries {
		if name, err := backend.ParseStore(e.Name()); err == nil {
			sh.retireName(name)
		}
	}
}
