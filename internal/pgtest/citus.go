package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// EnvCitus names the variable with the URL of a superuser on the coordinator of a Citus cluster, in a database that has the
// extension and knows the nodes, such as postgres://postgres@127.0.0.1:5432/postgres. The superuser must get in at the
// nodes in the same way.
const EnvCitus = "TENEMENT_TEST_CITUS"

// HasCitus reports whether there is a Citus cluster to test on.
func HasCitus() bool { return os.Getenv(EnvCitus) != "" }

// AttachCitus is Citus outside of tests, where there is a cluster.
var AttachCitus = sync.OnceValues(func() (*Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	c, err := Attach(ctx, os.Getenv(EnvCitus))
	if err == nil {
		err = c.findNodes(ctx)
	}
	return c, err
})

// Citus returns the cluster of TENEMENT_TEST_CITUS, whose databases are made on all of its nodes. Where there is none the
// test is skipped.
func Citus(t testing.TB) *Cluster {
	t.Helper()
	if !HasCitus() {
		t.Skipf("%s names no Citus cluster", EnvCitus)
	}
	c, err := AttachCitus()
	check(t, err)
	return c
}

// node is a server of a Citus cluster that holds stores.
type node struct {
	host  string
	port  int
	admin *url.URL
}

func (c *Cluster) findNodes(ctx context.Context) error {
	return c.asAdmin(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, `SELECT nodename, nodeport FROM pg_dist_node WHERE shouldhaveshards AND isactive AND noderole = 'primary' ORDER BY nodeid`)
		var n node
		_, err := pgx.ForEachRow(rows, []any{&n.host, &n.port}, func() error {
			admin := *c.admin
			admin.Host = net.JoinHostPort(n.host, strconv.Itoa(n.port))
			n.admin = &admin
			c.nodes = append(c.nodes, n)
			return nil
		})
		if err == nil && len(c.nodes) == 0 {
			err = fmt.Errorf("pgtest: the database of %s knows no nodes; SELECT citus_add_node(…)", EnvCitus)
		}
		return err
	})
}

// unpropagated has a session of a superuser do what it is told on its own node alone.
const unpropagated = `SET citus.enable_ddl_propagation = off`

// everywhere runs fn as the superuser on each server of a Citus cluster, in a database.
func (c *Cluster) everywhere(ctx context.Context, database string, fn func(*pgx.Conn) error) error {
	servers := []*url.URL{c.admin}
	for _, n := range c.nodes {
		servers = append(servers, n.admin)
	}
	var faults []error
	for _, server := range servers {
		u := *server
		u.Path = "/" + database
		faults = append(faults, withConn(ctx, u.String(), func(conn *pgx.Conn) error {
			if len(c.nodes) > 0 {
				if _, err := conn.Exec(ctx, unpropagated); err != nil {
					return err
				}
			}
			return fn(conn)
		}))
	}
	return errors.Join(faults...)
}

// joinNodes makes the databases of one name on all servers one.
func (c *Cluster) joinNodes(ctx context.Context, database string) error {
	if len(c.nodes) == 0 {
		return nil
	}
	err := c.everywhere(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS citus`)
		return err
	})
	if err != nil {
		return err
	}
	u := *c.admin
	u.Path = "/" + database
	// A node that is added is told all roles, and fails where another test's database is told them at the same moment.
	return c.asAdmin(ctx, func(admin *pgx.Conn) error {
		if _, err := admin.Exec(ctx, `SELECT pg_advisory_lock(hashtext('pgtest: citus_add_node'))`); err != nil {
			return err
		}
		return retry(ctx, func() error {
			return withConn(ctx, u.String(), func(conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, `SELECT citus_set_coordinator_host($1, $2)`, c.admin.Hostname(), portNumber(c.admin))
				for _, n := range c.nodes {
					if err == nil {
						_, err = conn.Exec(ctx, `SELECT citus_add_node($1, $2)`, n.host, n.port)
					}
				}
				return err
			})
		})
	})
}

func portNumber(u *url.URL) int {
	n, _ := strconv.Atoi(portOf(u)) // digits: it was connected to
	return n
}
