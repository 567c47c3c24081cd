package wireproxy

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// Codes that a client may send before its first typed message, in the place of the protocol's version.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

// startup stands for the start-up message in counter.owed; the others stand there with their own letter.
const startup byte = 0

// ping is what pgx asks with.
var ping = append([]byte{'Q', 0, 0, 0, 12}, "-- ping\x00"...)

// counter follows the protocol of one connection; the package comment says what it counts.
type counter struct {
	trips *atomic.Int64

	mu sync.Mutex
	// untyped is true until the start-up message has passed: messages before it have no letter.
	untyped bool
	client  framing
	server  framing
	// owed are the messages that a ReadyForQuery will answer, oldest first.
	owed []byte
	// tail is true when the client has sent something after the last message of owed.
	tail bool
	// flushed is true between a Flush and the first answer after it.
	flushed bool
	// asking is true from the first message of a round trip until everything is answered.
	asking bool
	// counted is true when the round trip under way has been counted.
	counted bool
	// heard is when the server last sent something, silent how long ago that was when the round trip under way began, and
	// asked how that begins: no more of it than tells it from a ping.
	heard  time.Time
	silent time.Duration
	asked  []byte
	// copying is true between CopyInResponse and the client's CopyDone or CopyFail: the server ignores Sync there.
	copying bool
}

func newCounter(trips *atomic.Int64) *counter {
	return &counter{trips: trips, untyped: true}
}

// fromClient takes what the client sent. It returns what goes to the server, and, when the client asked for
// encryption, what the proxy answers in the server's place.
func (c *counter) fromClient(data []byte) (forward, answer []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	forward = data
	for c.untyped {
		// The client waits for the answer to each of these, so a message does not begin in the middle of data.
		n := c.client.header(data, 8)
		if !c.client.complete(8) {
			return forward[:0], answer
		}
		head := c.client.head
		size := int(binary.BigEndian.Uint32(head[:4]))
		switch binary.BigEndian.Uint32(head[4:8]) {
		case sslRequest, gssRequest:
			c.client.reset()
			c.trips.Add(1)
			data, forward, answer = data[n:], data[n:], append(answer, 'N')
			if len(data) == 0 {
				return nil, answer
			}
			continue
		case cancelRequest:
			// Not answered. The two numbers that follow count as the body of a message.
		default:
			c.owed = append(c.owed, startup)
			c.asking = true
		}
		c.untyped = false
		c.client.reset()
		c.client.body = max(size-8, 0)
		// The header may have come in pieces, of which the earlier ones were held back.
		forward = append(append([]byte(nil), head[:8]...), data[n:]...)
		data = data[n:]
	}
	for len(data) > 0 {
		// Even a part of a message begins the round trip: its answer cannot have been sent before.
		if skipped := c.client.skip(data); skipped > 0 {
			c.ask(data[:skipped])
			data = data[skipped:]
			continue
		}
		if c.client.have == 0 {
			c.clientMessage(data[0])
		}
		n := c.client.header(data, 5)
		c.ask(data[:n])
		data = data[n:]
		if c.client.complete(5) {
			c.client.body = max(int(binary.BigEndian.Uint32(c.client.head[1:5]))-4, 0)
			c.client.reset()
		}
	}
	return forward, answer
}

// clientMessage is called at the first byte of each message.
func (c *counter) clientMessage(kind byte) {
	if !c.asking {
		c.asking, c.counted = true, false
		c.asked, c.silent = c.asked[:0], time.Since(c.heard)
	}
	switch kind {
	case 'Q', 'F': // Query, FunctionCall
		c.owed, c.tail = append(c.owed, kind), false
	case 'S': // Sync
		if !c.copying {
			c.owed, c.tail = append(c.owed, kind), false
		}
	case 'H': // Flush
		c.flushed, c.tail = true, true
	case 'c', 'f': // CopyDone, CopyFail: what the server waits for to answer a Query that is owed
		c.copying = false
	case 'd': // CopyData
	case 'p': // a password, which the start-up that is owed waits for
	default:
		c.tail = true
	}
}

// ask notes what the client sends in the round trip under way.
func (c *counter) ask(data []byte) {
	if room := len(ping) + 1 - len(c.asked); room > 0 {
		c.asked = append(c.asked, data[:min(room, len(data))]...)
	}
}

// pinged reports whether the round trip under way only asks whether the server is there, after long silence.
func (c *counter) pinged() bool { return c.silent > PingAfter && bytes.Equal(c.asked, ping) }

func (c *counter) fromServer(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking && !c.counted && len(data) > 0 {
		c.counted = true
		if !c.pinged() {
			c.trips.Add(1)
		}
	}
	c.heard = time.Now()
	for len(data) > 0 {
		if skipped := c.server.skip(data); skipped > 0 {
			data = data[skipped:]
			continue
		}
		size := 5
		if c.server.have > 0 && c.server.head[0] == 'R' || c.server.have == 0 && data[0] == 'R' {
			size = 9 // with the kind of authentication
		}
		data = data[c.server.header(data, size):]
		if c.server.complete(size) {
			head := c.server.head
			c.server.body = max(int(binary.BigEndian.Uint32(head[1:5]))+1-size, 0)
			c.server.reset()
			c.serverMessage(head[0], binary.BigEndian.Uint32(head[5:9]))
		}
	}
}

func (c *counter) serverMessage(kind byte, authentication uint32) {
	switch kind {
	case 'R':
		switch authentication {
		case 0, 12: // AuthenticationOk, AuthenticationSASLFinal: nothing is asked of the client
		default:
			c.asking = false
		}
	case 'Z': // ReadyForQuery
		c.copying = false
		if len(c.owed) > 0 {
			c.owed = c.owed[1:]
		}
		if len(c.owed) == 0 && !c.tail {
			c.asking, c.flushed = false, false
		}
	case 'G': // CopyInResponse
		c.copying = true
		if len(c.owed) > 0 && c.owed[0] == 'S' {
			c.owed = c.owed[1:]
		}
	case 'A', 'N', 'S': // NotificationResponse, NoticeResponse, ParameterStatus: come at any time
	default:
		if c.flushed && len(c.owed) == 0 {
			c.asking, c.flushed = false, false
		}
	}
}

// framing finds the messages of one direction, however they are cut into pieces.
type framing struct {
	head [9]byte
	have int // bytes of head that are there
	body int // bytes still to come of a message whose header is complete
}

// header copies from data what is missing of a header of the given size, and returns how many bytes it took.
func (f *framing) header(data []byte, size int) int {
	n := copy(f.head[f.have:size], data)
	f.have += n
	return n
}

func (f *framing) complete(size int) bool { return f.have == size }

func (f *framing) reset() { f.have = 0 }

// skip returns how many bytes of data belong to the body of the message under way.
func (f *framing) skip(data []byte) int {
	n := min(f.body, len(data))
	f.body -= n
	return n
}
