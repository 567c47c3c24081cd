package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// The wire client is the floor of the design: it says what ours says (it learns it by listening, see spoken) and does
// nothing else: no pool to speak of, no contexts, no types, no retries.

// naming says how the wire client names the statements that it prepares.
type naming uint8

const (
	perStore naming = iota // one for each store and text: its plan is always right
	perText                // one for each text: the server replans it when search_path is another
	unnamed                // parsed each time
)

// wireClient has connections that any goroutine may use.
type wireClient struct {
	*spoken
	naming naming
	names  [][texts]string // by store, for perStore
	keep   int             // statements kept on a connection; 0: all
	idle   chan *wireConn
}

type wireConn struct {
	net.Conn
	fe    *pgproto3.Frontend
	store int                 // that it served last; -1: none
	known map[string]struct{} // what is prepared
	order []string            // the same of the stores' statements, oldest first
	value string              // of the last row

	read    portal // the one under way
	bind    pgproto3.Bind
	execute pgproto3.Execute
}

// wire connects to a database by a URL that leads there, for the suite under way.
func (e *env) wire(ctx context.Context, via string, s *spoken, n naming, keep int) (*wireClient, error) {
	w := newWireClient(s, n, keep)
	for range conns {
		c, err := dial(ctx, via, s)
		if err != nil {
			return nil, err
		}
		e.cleanup(func() { _ = c.Close() })
		w.idle <- c
	}
	return w, nil
}

func newWireClient(s *spoken, n naming, keep int) *wireClient {
	w := &wireClient{spoken: s, naming: n, keep: keep, idle: make(chan *wireConn, conns), names: make([][texts]string, len(s.prefix))}
	for i := range w.names {
		for t := range texts {
			w.names[i][t] = fmt.Sprintf("s%d_%d", i, t)
		}
	}
	return w
}

func dial(ctx context.Context, via string, s *spoken) (*wireConn, error) {
	cfg, err := pgconn.ParseConfig(via)
	if err != nil {
		return nil, err
	}
	for name, value := range s.startup {
		if name != "user" && name != "database" {
			cfg.RuntimeParams[name] = value
		}
	}
	pc, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for _, sql := range s.setup {
		if _, err := pc.Exec(ctx, sql).ReadAll(); err != nil {
			return nil, errors.Join(err, pc.Close(ctx))
		}
	}
	h, err := pc.Hijack()
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: h.Conn, fe: h.Frontend, store: -1, known: make(map[string]struct{})}, nil
}

// with lends f a connection.
func (w *wireClient) with(f func(*wireConn) error) error {
	c := <-w.idle
	err := f(c)
	w.idle <- c
	return err
}

// read reads once from a store.
func (w *wireClient) read(c *wireConn, store, text int) error {
	ahead := w.prefix[store]
	if c.store != store && w.change[store] != nil {
		ahead = w.change[store]
	}
	c.store = store
	for i := range ahead {
		c.queue(&ahead[i])
	}
	w.queueRead(c, store, text)
	return c.exchange()
}

func (w *wireClient) queueRead(c *wireConn, store, text int) {
	p := &c.read
	*p = w.reads[text]
	switch w.naming {
	case perStore:
		p.name = w.names[store][text]
		w.makeRoom(c, p.name)
	case perText:
		p.name = w.names[0][text]
	case unnamed:
		p.name = ""
	}
	c.queue(p)
}

// makeRoom closes the oldest statement when a new one would be one too many.
func (w *wireClient) makeRoom(c *wireConn, name string) {
	if _, known := c.known[name]; known || w.keep == 0 {
		return
	}
	if c.order = append(c.order, name); len(c.order) > w.keep {
		c.fe.SendClose(&pgproto3.Close{ObjectType: 'S', Name: c.order[0]})
		delete(c.known, c.order[0])
		c.order = c.order[1:]
	}
}

// queue puts one statement into the message under way, and its Parse where it is not prepared.
func (c *wireConn) queue(p *portal) {
	if _, known := c.known[p.name]; !known {
		c.fe.SendParse(&pgproto3.Parse{Name: p.name, Query: p.sql})
		if p.name != "" {
			c.known[p.name] = struct{}{}
		}
	}
	c.bind = p.bind
	c.bind.PreparedStatement = p.name
	c.fe.SendBind(&c.bind)
	c.execute.MaxRows = p.rows
	c.fe.SendExecute(&c.execute)
}

// exchange sends the message and reads the answer to its end, keeping the first value of the last row.
func (c *wireConn) exchange() error {
	c.fe.SendSync(&pgproto3.Sync{})
	if err := c.fe.Flush(); err != nil {
		return err
	}
	var failed error
	c.value = ""
	for {
		m, err := c.fe.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) > 0 {
				c.value = string(m.Values[0])
			}
		case *pgproto3.ErrorResponse:
			failed = fmt.Errorf("%s (SQLSTATE %s)", m.Message, m.Code)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}

var (
	beginPortal  = portal{name: "begin", sql: "begin"}
	commitPortal = portal{name: "commit", sql: "commit"}
)

// transaction reads three times in one transaction: four round trips when BEGIN and the prefix go ahead of the first
// statement in one message, five when they have one of their own. It is of one store: nothing is cleaned.
func (w *wireClient) transaction(c *wireConn, store int, ahead bool) error {
	c.store = store
	c.queue(&beginPortal)
	for i := range w.prefix[store] {
		c.queue(&w.prefix[store][i])
	}
	if !ahead {
		if err := c.exchange(); err != nil {
			return err
		}
	}
	for range 3 {
		w.queueRead(c, store, 0)
		if err := c.exchange(); err != nil {
			return err
		}
	}
	c.queue(&commitPortal)
	return c.exchange()
}

// readWire reads with the wire client.
func readWire(name string, w *wireClient, v visits) contender {
	return contender{name: name, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(context.Context) error {
			store, text := next()
			return w.with(func(c *wireConn) error { return w.read(c, store, text) })
		}
	}}
}

func txWire(name string, w *wireClient, ahead bool) contender {
	return contender{name: name, worker: alike(func(context.Context) error {
		return w.with(func(c *wireConn) error { return w.transaction(c, 0, ahead) })
	})}
}
