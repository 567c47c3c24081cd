package wireproxy

import (
	"syscall"
	"time"
)

// sleep sleeps in the kernel, for d or less: time.Sleep rounds a sleep of less than a millisecond up to one, which would
// double a latency of 0.5 ms each way.
func sleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil)
}
