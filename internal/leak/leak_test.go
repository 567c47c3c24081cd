package leak

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

// Whoever is on his way is waited for, whoever stays is reported.
func TestFind(t *testing.T) { //nolint:paralleltest // looks at all goroutines of the process
	end := make(chan struct{})
	stays := func() { <-end }
	go stays()
	require.ErrorContains(t, find(0), "leak.TestFind")
	time.AfterFunc(time.Second, func() { close(end) }) // later than goleak alone waits
	require.NoError(t, find(patience))
}
