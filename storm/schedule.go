package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// fault is one thing that is done to a running set-up.
type fault struct {
	at   time.Duration // since the beginning
	kind faultKind
	arg  uint64
}

type faultKind string

const (
	faultKill      faultKind = "server killed"         // SIGKILL of a process that serves; another takes its place
	faultTerminate faultKind = "connections ended"     // pg_terminate_backend of some of the server's processes
	faultCut       faultKind = "wires cut"             // by the proxy, all at once
	faultCrash     faultKind = "Postgres restarted"    // killed at once, and started again
	faultMigrate   faultKind = "fleet migrated"        // three processes at once bring all stores to the next version
	faultMigrKill  faultKind = "migrating killed"      // the same, and one of them is killed meanwhile
	faultDisk      faultKind = "disk full for a while" // of the stores and the shared store: whoever writes is refused
)

// schedule is a pure function of its arguments: which faults there are, and when at the earliest.
func schedule(seed uint64, d time.Duration, kinds []faultKind) []fault {
	rng := rand.New(rand.NewPCG(seed, 1))
	var all []fault
	var round []faultKind
	for at := time.Second; ; {
		at += 500*time.Millisecond + time.Duration(rng.ExpFloat64()*float64(1500*time.Millisecond))
		if at > d-time.Second {
			return all
		}
		if len(round) == 0 { // each kind in each round, so that a short storm has them all
			round = slices.Clone(kinds)
			rng.Shuffle(len(round), func(i, k int) { round[i], round[k] = round[k], round[i] })
		}
		all = append(all, fault{at: at, kind: round[0], arg: rng.Uint64()})
		round = round[1:]
	}
}
