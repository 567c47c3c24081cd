package main

import (
	"errors"
	"reflect"
	"testing"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// testEnv is an environment for a test, of the smallest size.
func testEnv(t *testing.T) *env {
	t.Helper()
	e := newEnv(true)
	t.Cleanup(e.close)
	if _, err := e.database(t.Context()); err != nil {
		if errors.Is(err, pgtest.ErrNotInstalled) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	return e
}

// said is one statement as it was sent, without how it was prepared.
type said struct {
	sql     string
	params  []string
	formats [2][]int16
	rows    uint32
}

// flat lists what batches say, without where one ends and the next begins.
func flat(batches [][]portal) (out []said) {
	for _, batch := range batches {
		for _, p := range batch {
			s := said{sql: p.sql, rows: p.rows}
			for i, codes := range [][]int16{p.bind.ParameterFormatCodes, p.bind.ResultFormatCodes} {
				s.formats[i] = append(s.formats[i], codes...)
			}
			for _, v := range p.bind.Parameters {
				s.params = append(s.params, string(v))
			}
			out = append(out, s)
		}
	}
	return out
}

// The wire client is the floor only as long as it says what ours says: whatever ours adds, it has to add too.
func TestTheWireClientSaysWhatOursSays(t *testing.T) {
	e := testEnv(t)
	for _, role := range []bool{true, false} {
		f, err := e.fleet(t.Context(), fleetKey{role: role}, 2)
		if err != nil {
			t.Fatal(err)
		}
		s, err := listenTo(t.Context(), f, 2)
		if err != nil {
			t.Fatal(err)
		}
		r, err := newRecorder(f.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.close)
		via, err := r.url(f.socket)
		if err != nil {
			t.Fatal(err)
		}
		be, err := f.open(t.Context(), via, "pool_max_conns", "1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = be.Close() })
		c, err := dial(t.Context(), via, s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		w := newWireClient(s, perStore, 0)
		to := routes(2)
		for _, unit := range []struct {
			name       string
			ours, wire func() error
		}{
			{"statement", func() error { return readSQL(to[1], be.DB(), 3) }, func() error { return w.read(c, 1, 3) }},
			{"statements of two tenants", func() error {
				return errors.Join(readSQL(to[0], be.DB(), 0), readSQL(to[1], be.DB(), 0))
			}, func() error { return errors.Join(w.read(c, 0, 0), w.read(c, 1, 0)) }},
			{"transaction", func() error { return txSQL(to[1], be.DB()) }, func() error { return w.transaction(c, 1, true) }},
		} {
			ours, wire := steadily(t, r, unit.ours), steadily(t, r, unit.wire)
			if len(ours) != len(wire) {
				t.Fatalf("%s, role %v: ours says\n%v\nand the wire client\n%v", unit.name, role, ours, wire)
			}
			for i := range ours {
				if !reflect.DeepEqual(ours[i], wire[i]) {
					t.Errorf("%s, role %v, statement %d: ours says\n%+v\nand the wire client\n%+v", unit.name, role, i, ours[i], wire[i])
				}
			}
		}
	}
}

// steadily returns what an operation says when all is prepared and known.
func steadily(t *testing.T, r *recorder, op func() error) (out []said) {
	t.Helper()
	for range 4 {
		batches, err := r.during(op)
		if err != nil {
			t.Fatal(err)
		}
		out = flat(batches)
	}
	return out
}
