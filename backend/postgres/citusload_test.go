package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// load is what writes and reads a store all the while. Each call must succeed.
type load struct {
	be      *postgres.Backend
	rt      backend.Route
	next    atomic.Int64
	written atomic.Int64
	longest atomic.Int64 // the longest call, in nanoseconds
}

func (l *load) run(ctx context.Context, stop <-chan struct{}) error {
	ctx = backend.WithRoute(ctx, l.rt)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		began := time.Now()
		if _, err := l.be.DB().ExecContext(ctx, "INSERT INTO notes (id, who) VALUES ($1, $2)", l.next.Add(1), l.rt.Owner); err != nil {
			return err
		}
		l.written.Add(1)
		var who string
		if err := l.be.DB().QueryRowContext(ctx, "SELECT who FROM marks").Scan(&who); err != nil {
			return err
		}
		if who != l.rt.Owner {
			return fmt.Errorf("%s was answered by %s", l.rt.Owner, who)
		}
		for took := int64(time.Since(began)); ; {
			before := l.longest.Load()
			if took <= before || l.longest.CompareAndSwap(before, took) {
				break
			}
		}
	}
}

// A store that is moved to another node and back while it is written and read: no call fails, nothing is lost, nothing is
// somebody else's; nor at a store beside it.
func TestCitusMoveUnderLoad(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Citus(t).Database(t), map[string]string{"pool_max_conns": "8"})
	loads := make([]*load, 2)
	for i := range loads {
		rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("m%d", i)), Owner: fmt.Sprintf("owner-%d", i)}
		loads[i] = &load{be: be, rt: rt}
		err := be.RunScripts(t.Context(), []backend.Script{{Route: rt, Create: true, SQL: "CREATE TABLE notes (id bigint PRIMARY KEY, who text NOT NULL);" +
			"CREATE TABLE marks (who text PRIMARY KEY); INSERT INTO marks VALUES ('" + rt.Owner + "')"}}, backend.ScriptOptions{})[0]
		require.NoError(t, err)
	}
	nodes, err := be.Nodes(t.Context())
	require.NoError(t, err)
	if len(nodes) < 2 {
		t.Skip("the cluster has one node")
	}
	stop := make(chan struct{})
	var at sync.WaitGroup
	for _, l := range loads {
		for range 2 {
			at.Go(func() { assert.NoError(t, l.run(t.Context(), stop)) })
		}
	}
	moved := loads[0].rt
	for _, n := range []backend.Node{nodes[0], nodes[1], nodes[0]} { // it is on one of them
		began := time.Now()
		assert.NoError(t, be.MoveStore(t.Context(), moved, n.Name))
		t.Logf("to %s in %v", n.Name, time.Since(began).Round(time.Millisecond))
		now, err := be.Nodes(t.Context())
		assert.NoError(t, err)
		for _, other := range now {
			assert.Equal(t, other.Name == n.Name, slices.Contains(other.Stores, moved.Store), other.Name)
		}
	}
	close(stop)
	at.Wait()
	for _, l := range loads {
		var rows, own int64
		err := be.DB().QueryRowContext(backend.WithRoute(t.Context(), l.rt), "SELECT count(*), count(*) FILTER (WHERE who = $1) FROM notes", l.rt.Owner).Scan(&rows, &own)
		require.NoError(t, err)
		assert.Equal(t, l.written.Load(), rows)
		assert.Equal(t, rows, own)
		assert.Positive(t, rows)
		t.Logf("%s: %d rows, longest write and read %v", l.rt.Store, rows, time.Duration(l.longest.Load()).Round(time.Millisecond))
	}
}

// S17, with a role for each tenant on Citus: a store is made, migrated, written, moved, renamed and dropped, and a statement
// that names another tenant's schema is refused.
func TestCitusRoleForEach(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Citus(t).Database(t), map[string]string{"tenant_role": "each"})
	routes := make([]backend.Route, 2)
	for i := range routes {
		routes[i] = backend.Route{Store: backend.MustParseStore(fmt.Sprintf("e%d", i)), Owner: fmt.Sprintf("owner-%d", i)}
		s := backend.Script{Route: routes[i], Create: true, SQL: "CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mark text); CREATE INDEX notes_mark ON notes (mark);"}
		require.NoError(t, be.RunScripts(t.Context(), []backend.Script{s}, backend.ScriptOptions{})[0])
		s = backend.Script{Route: routes[i], SQL: "ALTER TABLE notes ADD COLUMN size int; CREATE INDEX notes_size ON notes (size); DROP INDEX notes_mark;"}
		require.NoError(t, be.RunScripts(t.Context(), []backend.Script{s}, backend.ScriptOptions{})[0])
		_, err := be.DB().ExecContext(backend.WithRoute(t.Context(), routes[i]), "INSERT INTO notes (mark) VALUES ($1)", routes[i].Owner)
		require.NoError(t, err)
	}
	inside := backend.WithRoute(t.Context(), routes[0])
	var mark string
	require.Error(t, be.DB().QueryRowContext(inside, "SELECT mark FROM e1.notes").Scan(&mark))
	require.NoError(t, be.DB().QueryRowContext(inside, "SELECT mark FROM notes").Scan(&mark))
	require.Equal(t, "owner-0", mark)

	nodes, err := be.Nodes(t.Context())
	require.NoError(t, err)
	for _, n := range nodes {
		require.NoError(t, be.MoveStore(t.Context(), routes[0], n.Name))
	}
	to := backend.MustParseStore("e7")
	require.NoError(t, be.Rename(t.Context(), routes[0], to))
	routes[0].Store = to
	require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), routes[0]), "SELECT mark FROM notes").Scan(&mark))
	require.Equal(t, "owner-0", mark)
	for _, rt := range routes {
		require.NoError(t, be.Drop(t.Context(), rt))
	}
	left, err := be.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}
