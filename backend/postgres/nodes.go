package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

var (
	_ backend.Noder  = (*Backend)(nil)
	_ backend.Sharer = (*Backend)(nil)
)

// nodesSQL lists the nodes that take stores, and the schemas on each. A schema without tables is on none yet.
const nodesSQL = "select nodes.nodename::text,nodes.nodeport::text,coalesce(array(select n.nspname::text from pg_catalog.pg_dist_schema s " +
	"join pg_catalog.pg_namespace n on n.oid=s.schemaid where pg_catalog.starts_with(coalesce(pg_catalog.obj_description(n.oid,'pg_namespace'),''),$1) " +
	"and exists (select from pg_catalog.pg_dist_partition p join pg_catalog.pg_dist_shard h on h.logicalrelid=p.logicalrelid " +
	"join pg_catalog.pg_dist_placement a on a.shardid=h.shardid where p.colocationid=s.colocationid and a.groupid=nodes.groupid) " +
	"order by n.nspname::text collate \"C\"),'{}') " +
	"from pg_catalog.pg_dist_node nodes where nodes.shouldhaveshards and nodes.isactive and nodes.noderole='primary' order by nodes.nodeid"

// Nodes implements [backend.Noder]: the nodes of a Citus cluster. A store that has no table yet is on none.
func (be *Backend) Nodes(ctx context.Context) (nodes []backend.Node, err error) {
	if !be.citus.on {
		return nil, nil
	}
	err = be.withConn(ctx, "list nodes", backend.Route{}, func(c *pgx.Conn) error {
		rows, _ := c.Query(ctx, nodesSQL, be.queryMode(), stampText)
		var host, port string
		var schemas []string
		_, err := pgx.ForEachRow(rows, []any{&host, &port, &schemas}, func() error {
			n := backend.Node{Name: net.JoinHostPort(host, port)}
			for _, name := range schemas {
				if s, err := backend.ParseStore(name); err == nil {
					n.Stores = append(n.Stores, s)
				}
			}
			nodes = append(nodes, n)
			return nil
		})
		return err
	})
	return nodes, err
}

// unevenFrom is how many stores one node may have more than another, whatever their share.
const unevenFrom = 10

// adviseNodes says when one node has many more stores than another: more than a tenth above an even share.
func adviseNodes(nodes []backend.Node) []backend.Advice {
	if len(nodes) < 2 {
		return nil
	}
	byCount := func(a, b backend.Node) int { return len(a.Stores) - len(b.Stores) }
	least, most, total := slices.MinFunc(nodes, byCount), slices.MaxFunc(nodes, byCount), 0
	for _, n := range nodes {
		total += len(n.Stores)
	}
	if len(most.Stores)-len(least.Stores) <= unevenFrom || 10*len(most.Stores)*len(nodes) <= 11*total {
		return nil
	}
	return []backend.Advice{{Text: fmt.Sprintf("node %s has %d of %d stores, and %s has %d; citus rebalance spreads them",
		most.Name, len(most.Stores), total, least.Name, len(least.Stores))}}
}

// onNodeSQL asks for a table of a schema's on a node d.
func onNodeSQL(schema, node string) string {
	return "select from pg_catalog.pg_dist_schema s join pg_catalog.pg_dist_partition p on p.colocationid=s.colocationid " +
		"join pg_catalog.pg_dist_shard h on h.logicalrelid=p.logicalrelid join pg_catalog.pg_dist_placement a on a.shardid=h.shardid " +
		"join pg_catalog.pg_dist_node d on d.groupid=a.groupid where s.schemaid=" + schema + "::oid and " + node
}

// MoveStore implements [backend.Noder] by citus_schema_move: the rows are copied while they are written, by logical
// replication, for which each table needs a primary key; the last of them while writers wait for a moment. The nodes run with
// wal_level=logical. The store is neither renamed nor dropped meanwhile.
func (be *Backend) MoveStore(ctx context.Context, rt backend.Route, node string) error {
	host, port, err := net.SplitHostPort(node)
	switch {
	case !be.citus.on:
		return &backend.Error{Op: "move", Store: rt.Store, Err: backend.ErrNoNodes}
	case err != nil || strings.Trim(port, "0123456789") != "" || port == "":
		return &backend.Error{Op: "move", Store: rt.Store, Err: fmt.Errorf("%q is no HOST:PORT", node)}
	}
	sql := "begin;set local search_path=pg_catalog,pg_temp;" + be.roles.resetSQL() + shareSQL(rt.Store) + guardSQL(rt) +
		"select pg_catalog.citus_schema_move(n," + literal(host) + "," + port + ") from (select " + literal(quote(rt.Store.String())) + "::pg_catalog.regnamespace n) x " +
		"where not exists (" + onNodeSQL("n", "d.nodename="+literal(host)+" and d.nodeport="+port) + ");commit"
	return be.lend(ctx, "move", rt, func(c *conn) error {
		err := c.texts(ctx, sql, nil)
		if err != nil && !c.idle() && !c.pc.IsClosed() {
			_ = c.rollback(ctx)
		}
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			if fault := named(pe); fault != nil {
				err = fault
			}
		}
		return err
	})
}

// ShareEverywhere makes reference tables of shared tables, by their names in the schema public: each node has a copy, and
// tenants' tables may join them there and refer to them. It does nothing about those that are it already.
func (be *Backend) ShareEverywhere(ctx context.Context, tables ...string) error {
	if !be.citus.on {
		return &backend.Error{Op: "share", Err: backend.ErrNoNodes}
	}
	for _, table := range tables {
		name := literal("public." + quote(table))
		err := be.upkeep(ctx, "share", backend.Route{}, "select pg_catalog.create_reference_table("+name+") where not exists (select from pg_catalog.pg_dist_partition "+
			"where logicalrelid="+name+"::pg_catalog.regclass and partmethod='n' and repmodel='t');")
		if err != nil {
			return err
		}
	}
	return nil
}
