package wireproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// readSize is large, so that a burst tends to be seen whole.
const readSize = 256 << 10

// link is one client connection and its server connection.
type link struct {
	proxy  *Proxy
	client net.Conn

	mu     sync.Mutex
	server net.Conn // nil while it is being dialled
	gone   bool
}

// attach hands the server connection over; it returns false, having closed it, when the link was cut meanwhile.
func (l *link) attach(server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		reset(server)
		return false
	}
	l.server = server
	return true
}

func (l *link) cut() { l.end(reset) }

// end closes both connections in a way.
func (l *link) end(how func(net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return
	}
	l.gone = true
	how(l.client)
	if l.server != nil {
		how(l.server)
	}
}

func (l *link) isGone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// run forwards both directions until one side has closed.
func (l *link) run() {
	counter := newCounter(&l.proxy.roundTrips)
	toServer := newWire(l, l.server)
	toClient := newWire(l, l.client)

	var directions sync.WaitGroup
	directions.Go(func() {
		buf := make([]byte, readSize)
		for {
			n, err := l.client.Read(buf)
			if n > 0 {
				forward, answer := counter.fromClient(buf[:n])
				if answer != nil && !toClient.send(answer) {
					break
				}
				if len(forward) > 0 && !toServer.send(forward) {
					break
				}
			}
			if err != nil {
				break
			}
		}
		toServer.end()
	})
	directions.Go(func() {
		buf := make([]byte, readSize)
		for {
			n, err := l.server.Read(buf)
			if n > 0 {
				counter.fromServer(buf[:n])
				if !toClient.send(buf[:n]) {
					break
				}
			}
			if err != nil {
				break
			}
		}
		// What the server said last reaches the client before its end does.
		toClient.end()
		_ = l.client.Close()
	})
	directions.Wait()
	l.cut()
}

// wire is one direction of a link: it delivers what is sent in order, each piece after the latency in force when it
// was sent.
type wire struct {
	link *link
	to   net.Conn

	sending  sync.Mutex // the answer to an encryption request comes from the other direction's reader
	waiting  atomic.Int64
	queue    chan piece
	finished chan struct{}
	failed   atomic.Bool
}

type piece struct {
	data []byte
	due  time.Time
}

func newWire(l *link, to net.Conn) *wire {
	return &wire{link: l, to: to}
}

// send takes a copy when it has to wait. It returns false once the far side is gone.
func (w *wire) send(data []byte) bool {
	w.sending.Lock()
	defer w.sending.Unlock()
	if w.failed.Load() {
		return false
	}
	latency := time.Duration(w.link.proxy.latency.Load())
	if latency == 0 && w.waiting.Load() == 0 {
		if _, err := w.to.Write(data); err != nil {
			w.failed.Store(true)
			return false
		}
		return true
	}
	if w.queue == nil {
		w.queue = make(chan piece, 4096)
		w.finished = make(chan struct{})
		go w.deliver()
	}
	w.waiting.Add(1)
	w.queue <- piece{data: append([]byte(nil), data...), due: time.Now().Add(latency)}
	return true
}

func (w *wire) deliver() {
	defer close(w.finished)
	for p := range w.queue {
		if !w.failed.Load() {
			w.await(p.due)
			if _, err := w.to.Write(p.data); err != nil {
				w.failed.Store(true)
			}
		}
		w.waiting.Add(-1)
	}
}

// await sleeps until then, or until the link is cut.
func (w *wire) await(due time.Time) {
	for left := time.Until(due); left > 0 && !w.link.isGone(); left = time.Until(due) {
		sleep(min(left, 20*time.Millisecond))
	}
}

// end waits until everything is delivered, then tells the far side that no more comes.
func (w *wire) end() {
	w.sending.Lock()
	defer w.sending.Unlock()
	if w.queue != nil {
		close(w.queue)
		<-w.finished
		w.queue = nil
	}
	w.failed.Store(true)
	if half, ok := w.to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
