//go:build !linux

package wireproxy

import "time"

func sleep(d time.Duration) { time.Sleep(d) }
