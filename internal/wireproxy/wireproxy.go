// Package wireproxy is a TCP proxy in front of a Postgres server, for tests and benchmarks: it counts round trips, adds
// latency, cuts connections and refuses new ones.
//
// # What a round trip is
//
// The proxy reads the message framing of both directions. A round trip begins with the first message that a client sends
// while everything it sent before is answered, and is counted when the first byte of the server's answer to it arrives.
// The server has answered everything when it has sent a ReadyForQuery for every Query, Sync and FunctionCall; before
// that, an answer to a Flush, and a request for a password, let the next message begin a new round trip. So:
//
//   - a pipeline is one round trip, in however many TCP segments it travels and however many Syncs it holds, unless the
//     server had answered all of what came first by the time the rest reached the proxy;
//   - the start-up of a connection is one round trip, and one more for each step of a password exchange;
//   - a COPY FROM STDIN is one round trip, whether or not the client waited for the server's word to begin;
//   - Terminate, a cancel request, and notices and notifications that nobody asked for are none;
//   - nor is a ping of pgx's on a connection that has been silent for longer than [PingAfter]: whether there is one depends
//     on how busy the machine is.
//
// The proxy answers a request for encryption itself, with no: what is encrypted cannot be counted.
package wireproxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// PingAfter is after which silence a pool of pgx's asks whether a connection is still there, before it is used.
const PingAfter = time.Second

// Proxy forwards connections to one server. It is safe for concurrent use.
type Proxy struct {
	network, target string
	listener        net.Listener
	roundTrips      atomic.Int64
	latency         atomic.Int64 // each way, in nanoseconds
	refuse          atomic.Bool
	done            chan struct{}
	running         sync.WaitGroup

	mu     sync.Mutex
	closed bool
	links  map[*link]struct{}
}

// New starts a proxy on a free port of 127.0.0.1 in front of target: "host:port", or the path of a unix socket
// (".../.s.PGSQL.5432"). The server is dialled anew for each connection; it need not be there yet. The caller closes
// the proxy.
func New(target string) (*Proxy, error) {
	network := "tcp"
	if strings.HasPrefix(target, "/") {
		network = "unix"
	} else if _, _, err := net.SplitHostPort(target); err != nil {
		return nil, fmt.Errorf("wireproxy: target %q: %w (want host:port or the path of a unix socket)", target, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("wireproxy: %w", err)
	}
	p := &Proxy{
		network:  network,
		target:   target,
		listener: listener,
		done:     make(chan struct{}),
		links:    make(map[*link]struct{}),
	}
	p.running.Go(p.accept)
	return p, nil
}

// NewURL is New with the host and port of a database URL as target.
func NewURL(databaseURL string) (*Proxy, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("wireproxy: %w", err)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("wireproxy: %q names no host: give a URL such as postgres://user@127.0.0.1:5432/app", u.Redacted())
	}
	port := u.Port()
	if port == "" {
		port = "5432"
	}
	return New(net.JoinHostPort(u.Hostname(), port))
}

// Addr returns the host:port that the proxy listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL returns databaseURL with the proxy's host and port and sslmode=disable. A keyword/value string comes back as one,
// with the same keywords appended (the last of each counts).
func (p *Proxy) URL(databaseURL string) string {
	host, port, _ := net.SplitHostPort(p.Addr())
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme == "" {
		return databaseURL + " host=" + host + " port=" + port + " sslmode=disable"
	}
	u.Host = p.Addr()
	query := u.Query()
	query.Del("host")
	query.Del("hostaddr")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	return u.String()
}

// RoundTrips returns the number of round trips of all connections since the start or the last ResetRoundTrips.
func (p *Proxy) RoundTrips() int64 { return p.roundTrips.Load() }

// ResetRoundTrips sets the count to zero and returns what it was.
func (p *Proxy) ResetRoundTrips() int64 { return p.roundTrips.Swap(0) }

// SetLatency delays everything that arrives from now on by d in each direction, so that a round trip takes 2d longer.
// The order stays; what is under way together is delayed together, as on a long wire.
func (p *Proxy) SetLatency(d time.Duration) { p.latency.Store(int64(max(d, 0))) }

// Refuse makes the proxy reset each new connection at once (true) or accept again (false). Open ones go on.
func (p *Proxy) Refuse(refuse bool) { p.refuse.Store(refuse) }

// CutAll resets every open connection, to the client and to the server, dropping what is under way.
func (p *Proxy) CutAll() { p.endAll(reset) }

// CloseAll closes every open connection instead (FIN): what the client sends next goes out without an error, and has no
// answer.
func (p *Proxy) CloseAll() { p.endAll(func(c net.Conn) { _ = c.Close() }) }

func (p *Proxy) endAll(how func(net.Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.end(how)
	}
}

// Connections returns the number of open connections.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close stops listening, resets the open connections and waits until the proxy's goroutines have ended. Closing twice
// does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.done)
	p.mu.Unlock()
	err := p.listener.Close()
	p.CutAll()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, most likely: it passes when connections end.
			select {
			case <-p.done:
				return
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		if p.refuse.Load() {
			reset(client)
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	// The link is registered before dialling, so that Close and CutAll reach a connection that is only half open.
	l := &link{proxy: p, client: client}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		reset(client)
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()

	server, err := net.DialTimeout(p.network, p.target, 10*time.Second)
	if err != nil {
		l.cut()
		return
	}
	if !l.attach(server) {
		return
	}
	l.run()
}

// reset closes c with RST instead of FIN, and without waiting for what is unsent.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
