// Package leak fails the tests of a package that leave goroutines behind.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for how long goroutines may be on their way to their end when the last test is over. pgx, for one, waits in
// the background for the server to close a connection on which something was under way, for 15 seconds at most; and goleak
// itself waits for less than half a second, which a busy machine takes for less.
const patience = time.Minute

// Main runs the tests and exits, with 1 when goroutines are left that do not end. It is what a TestMain calls.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := find(patience); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// find reports the goroutines that are still there after a while.
func find(patience time.Duration) error {
	for begun := time.Now(); ; {
		if err := goleak.Find(); err == nil || time.Since(begun) > patience {
			return err
		}
	}
}
