package pages

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFreePortIsGivenToNobodyElse(t *testing.T) {
	t.Parallel()
	port, err := FreePort(t.Context())
	require.NoError(t, err)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer listener.Close()
	given, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip("where the system says what it gives: ", err)
	}
	first, err := strconv.Atoi(strings.Fields(string(given))[0])
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	require.Less(t, n, first)
}
