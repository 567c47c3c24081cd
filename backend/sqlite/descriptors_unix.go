//go:build unix

package sqlite

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit returns how many files the process may have open. Go raises the soft limit to the hard one at start.
func descriptorLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int64(min(uint64(limit.Cur), math.MaxInt32)) //nolint:unconvert // it is signed on some systems
}

// descriptorsRunOut says that what cannot be opened may be for want of a descriptor.
const descriptorsRunOut = true
