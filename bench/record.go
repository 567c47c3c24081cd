package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend/postgres"
)

// recorder is a proxy that keeps what clients say to a Postgres server.
type recorder struct {
	network, target string
	listener        net.Listener

	mu    sync.Mutex
	last  *heard // the connection that spoke last
	conns []net.Conn
}

// heard is what one connection said.
type heard struct {
	startup  map[string]string
	batches  [][]portal // complete ones: what comes up to a Sync, or one simple query
	under    []portal   // the one under way
	prepared map[string]string
}

// portal is one statement's execution as it is sent.
type portal struct {
	name          string // of the prepared statement; "" has none
	sql           string
	bind          pgproto3.Bind
	rows          uint32 // the limit of the Execute
	parsed, asked bool   // a Parse, a Describe came with it
	simple        bool   // by the simple protocol
}

// newRecorder listens on a free port of 127.0.0.1 in front of the server that a URL names, by host and port or by the
// directory of its unix socket. The caller closes it.
func newRecorder(databaseURL string) (*recorder, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, err
	}
	r := &recorder{network: "tcp", target: u.Host}
	if dir := u.Query().Get("host"); dir != "" {
		r.network, r.target = "unix", dir+"/.s.PGSQL."+u.Query().Get("port")
	}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go r.accept()
	return r, nil
}

// url returns databaseURL with the recorder in the place of the server.
func (r *recorder) url(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = r.listener.Addr().String(), q.Encode()
	return u.String(), nil
}

func (r *recorder) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
}

func (r *recorder) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		backend, err := net.Dial(r.network, r.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, backend)
		r.mu.Unlock()
		go func() {
			_, _ = io.Copy(client, backend)
			_ = client.Close()
		}()
		go func() {
			_ = r.listen(client, backend)
			_ = backend.Close()
		}()
	}
}

// listen passes on what the client says, each message after it has been noted: when the client has its answer, all that
// it asked is known.
func (r *recorder) listen(client io.Reader, backend io.Writer) error {
	h := &heard{prepared: make(map[string]string)}
	head := make([]byte, 5)
	for first := true; ; first = false {
		message := head
		if first {
			message = head[:4] // the start-up has no letter
		}
		if _, err := io.ReadFull(client, message); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(message[len(message)-4:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		r.mu.Lock()
		r.last = h
		if first {
			h.hearStartup(body)
		} else {
			h.hear(message[0], body)
		}
		r.mu.Unlock()
		if _, err := backend.Write(append(message[:len(message):len(message)], body...)); err != nil {
			return err
		}
	}
}

func (h *heard) hearStartup(body []byte) {
	var m pgproto3.StartupMessage
	if m.Decode(body) == nil {
		h.startup = m.Parameters
	}
}

// hear notes a message. What does not decode would not be understood by the server either.
func (h *heard) hear(kind byte, body []byte) {
	switch kind {
	case 'P':
		var m pgproto3.Parse
		_ = m.Decode(body)
		h.prepared[m.Name] = m.Query
		h.under = append(h.under, portal{name: m.Name, sql: m.Query, parsed: true})
	case 'B':
		var m pgproto3.Bind
		_ = m.Decode(body)
		p := h.current()
		if p == nil || !p.parsed || p.name != m.PreparedStatement || p.bind.Parameters != nil {
			h.under = append(h.under, portal{name: m.PreparedStatement, sql: h.prepared[m.PreparedStatement]})
			p = h.current()
		}
		p.bind = m
	case 'D':
		if p := h.current(); p != nil {
			p.asked = true
		}
	case 'E':
		var m pgproto3.Execute
		_ = m.Decode(body)
		if p := h.current(); p != nil {
			p.rows = m.MaxRows
		}
	case 'Q':
		var m pgproto3.Query
		_ = m.Decode(body)
		h.under = append(h.under, portal{sql: m.String, simple: true})
		h.end()
	case 'S':
		h.end()
	}
}

func (h *heard) current() *portal {
	if len(h.under) == 0 {
		return nil
	}
	return &h.under[len(h.under)-1]
}

func (h *heard) end() {
	h.batches = append(h.batches, h.under)
	h.under = nil
}

// during runs f and returns the batches that the connection which spoke last has said meanwhile.
func (r *recorder) during(f func() error) ([][]portal, error) {
	r.mu.Lock()
	before := r.last
	from := 0
	if before != nil {
		from = len(before.batches)
	}
	r.mu.Unlock()
	if err := f(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return nil, errors.New("nothing was said")
	}
	if r.last != before {
		from = 0
	}
	return r.last.batches[from:], nil
}

// spoken is what ours says to the server for a read, as it was heard on the wire when all was prepared and known.
type spoken struct {
	startup map[string]string // parameters
	setup   []string          // what it says when it has connected
	prefix  [][]portal        // by store: what comes ahead of the statement in its message
	change  [][]portal        // the same when the connection served another store before; nil: nothing else
	reads   [texts]portal
}

// uncleaned is s without what takes away what another tenant may have left on the connection.
func (s *spoken) uncleaned() *spoken {
	u := *s
	u.change = make([][]portal, len(s.change))
	return &u
}

// listenTo has ours read from the first n stores of the fleet and notes how it speaks.
func listenTo(ctx context.Context, f *fleet, n int) (*spoken, error) {
	r, err := newRecorder(f.socket)
	if err != nil {
		return nil, err
	}
	defer r.close()
	via, err := r.url(f.socket)
	if err != nil {
		return nil, err
	}
	be, err := f.open(ctx, via, "pool_max_conns", "1")
	if err != nil {
		return nil, err
	}
	defer be.Close()
	to := routes(n)
	s := &spoken{change: make([][]portal, n), prefix: make([][]portal, n)}
	steady := func(store, text int) ([]portal, error) {
		var batches [][]portal
		for range 3 { // prepared, known, as ever
			if batches, err = r.during(func() error { return readSQL(to[store], be.DB(), text) }); err != nil {
				return nil, err
			}
		}
		if len(batches) != 1 {
			return nil, fmt.Errorf("a read took %d messages", len(batches))
		}
		b := batches[0]
		if len(b) < 2 || b[len(b)-1].sql != readTexts[text] {
			return nil, fmt.Errorf("a read was sent in a way that the wire client does not know: %+v", b)
		}
		return b, nil
	}
	for i := range n {
		b, err := steady(i, 0)
		if err != nil {
			return nil, err
		}
		s.prefix[i], s.reads[0] = b[:len(b)-1], b[len(b)-1]
		if s.change[i], err = changing(ctx, r, be, to[i]); err != nil {
			return nil, err
		}
	}
	for t := 1; t < texts; t++ {
		b, err := steady(0, t)
		if err != nil {
			return nil, err
		}
		s.reads[t] = b[len(b)-1]
	}
	s.startup, s.setup = r.last.startup, r.last.setup()
	return s, nil
}

// changing returns what comes ahead of a read on a connection that served something else before.
func changing(ctx context.Context, r *recorder, be *postgres.Backend, to context.Context) (ahead []portal, err error) {
	for range 2 { // prepared, as ever
		if _, err := be.Shared().ExecContext(ctx, "SELECT 1"); err != nil {
			return nil, err
		}
		batches, err := r.during(func() error { return readSQL(to, be.DB(), 0) })
		if err != nil {
			return nil, err
		}
		if len(batches) != 1 || len(batches[0]) < 2 {
			return nil, fmt.Errorf("a read of another store was sent in a way that the wire client does not know: %+v", batches)
		}
		ahead = batches[0][:len(batches[0])-1]
	}
	return ahead, nil
}

// setup returns the settings that a connection was given ahead of its first read.
func (h *heard) setup() (sql []string) {
	for _, batch := range h.batches {
		for _, p := range batch {
			switch {
			case p.sql == readTexts[0]:
				return sql
			case strings.HasPrefix(strings.ToLower(strings.TrimSpace(p.sql)), "set "):
				sql = append(sql, p.sql)
			}
		}
	}
	return sql
}
