//go:build !linux

package wireproxy

import "time"

func sleepUntil(due time.Time) { time.Sleep(time.Until(due)) }
