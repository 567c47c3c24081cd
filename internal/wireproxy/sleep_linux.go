package wireproxy

import (
	"syscall"
	"time"
)

// sleepUntil sleeps in the kernel: time.Sleep rounds a sleep of less than a millisecond up to one, which would double
// a latency of 0.5 ms each way.
func sleepUntil(due time.Time) {
	for {
		left := time.Until(due)
		if left <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&ts, nil)
	}
}
