package pages

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Where ports are looked for: below those that systems give to whoever asks for any (from 32768 on Linux, from 49152 elsewhere).
// One of those could be somebody else's by the time a page has built its program.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// FreePort returns a port of this machine that nobody listens on, for a program that is started later.
func FreePort(ctx context.Context) (port string, err error) {
	const tries = 100
	for range tries {
		port = strconv.Itoa(firstPort + rand.IntN(lastPort-firstPort))
		var listener net.Listener
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			return port, listener.Close()
		}
	}
	return "", errors.Join(errors.New("pages: no port is free"), err)
}
