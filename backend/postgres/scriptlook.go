package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
)

// looked is what was found out about a text. Many scripts have the same.
type looked struct {
	traits  traits
	reach   reach
	defined []string // the names in it, where it may make something
	whole   bool     // which are all
}

func (r *scriptRun) look(text string) *looked {
	l := r.texts[text]
	if l == nil {
		l = &looked{traits: classify(text), reach: reachOf(text, backend.Store{})}
		if l.traits&(defines|calls) != 0 {
			l.defined, l.whole = definedNames(text)
		}
		r.texts[text] = l
	}
	return l
}

// reachOf is what a script can do beyond what the role is for. Its guard writes to a table, which may have triggers.
func (r *scriptRun) reachOf(s *backend.Script) reach {
	far := r.look(s.SQL).reach
	if far == reachesOut { // unless what it names is its own store
		far = reachOf(s.SQL, s.Route.Store)
	}
	if s.Guard != "" {
		far = max(far, reachesCode)
	}
	return far
}

// hides reports whether a text may give its store something of its own that has the name of something shared.
func (r *scriptRun) hides(text string) bool {
	l := r.look(text)
	return l.traits&(defines|calls) != 0 && (!l.whole || slices.ContainsFunc(l.defined, func(name string) bool { return r.shared[name] }))
}

// sharedSQL asks which of the names $1 are those of something shared that a store could have its own of.
const sharedSQL = "select x.name from pg_catalog.unnest($1::pg_catalog.text[]) x(name) where " +
	"exists (select from pg_catalog.pg_class c where c.relnamespace operator(pg_catalog.=) " + publicOID + " and c.relname operator(pg_catalog.=) x.name::pg_catalog.name)" +
	" or exists (select from pg_catalog.pg_proc p where p.pronamespace operator(pg_catalog.=) " + publicOID + " and p.proname operator(pg_catalog.=) x.name::pg_catalog.name)" +
	" or exists (select from pg_catalog.pg_type t where t.typnamespace operator(pg_catalog.=) " + publicOID + " and t.typname operator(pg_catalog.=) x.name::pg_catalog.name)"

// findShared asks which names of the texts are those of something shared. It does where there is a text that could hide
// one: which makes something, in a store that somebody may have used them in.
func (r *scriptRun) findShared(ctx context.Context, c *conn) error {
	r.shared = map[string]bool{}
	var all []string
	seen := map[*looked]bool{}
	for i := range r.scripts[r.next:] {
		s := &r.scripts[r.next+i]
		if s.Create || r.made {
			continue
		}
		for _, l := range []*looked{r.look(s.SQL), r.look(s.Head)} {
			if l.whole && !seen[l] {
				seen[l] = true
				all = append(all, l.defined...)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	var name string
	return r.ask(ctx, c, sharedSQL, []any{slices.Compact(all)}, []any{&name}, func() error {
		r.shared[name] = true
		return nil
	})
}

// ask asks a question of ours. A run over many stores asks it for each message, and so it is kept prepared.
func (r *scriptRun) ask(ctx context.Context, c *conn, sql string, args, scans []any, row func() error) error {
	if err := c.cleanNow(ctx); err != nil {
		return err
	}
	if _, err := r.prepare(ctx, c, sql); err != nil {
		return err
	}
	rows, _ := c.pg.Query(ctx, sql, append([]any{r.be.queryMode()}, args...)...)
	_, err := pgx.ForEachRow(rows, scans, row)
	return err
}

// prepare keeps a statement of ours prepared on the connection, and returns its name: none where there can be no names. It
// is to be planned under the search_path that the connection has between transactions, or it would be planned anew.
func (r *scriptRun) prepare(ctx context.Context, c *conn, sql string) (name string, err error) {
	if r.nameless || len(r.scripts) == 1 || !c.named() || r.be.pooled.Load() {
		return "", nil
	}
	sd, err := c.pg.Prepare(ctx, sql, sql)
	if err != nil {
		return "", err
	}
	return sd.Name, nil
}
