package postgres

import (
	"context"
	"strconv"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// What goes ahead of a script costs the server less to run than to parse and to plan. So it is kept prepared, where the
// connection can, and executed before search_path is set: a plan is made anew when it finds another path than the one that
// it was made under. (For the same reason the path is not set by set_config in the same statement, as the prefix does.)

// sameScriptSQL takes a share of the store (lock key $1), and fails when its schema ($2) is not the one that identifyAll
// saw ($3): to read the stamp takes ten times as long.
const (
	lockScriptSQL = "pg_catalog.pg_advisory_xact_lock_shared(" + storeSpace + ",$1::pg_catalog.int4)" + sqlLook
	sameScriptSQL = "select " + lockScriptSQL + ",1 operator(pg_catalog./) (($2::pg_catalog.text)::pg_catalog.regnamespace::pg_catalog.oid operator(pg_catalog.=) $3::pg_catalog.oid)::pg_catalog.int4"
)

// preparation are the names under which the connection has the statements of a run, by their texts.
type preparation map[string]string

// prepareAll prepares what goes ahead of the scripts that are next. What the server refuses to prepare it shall refuse where
// it is run.
func (r *scriptRun) prepareAll(ctx context.Context, c *conn) error {
	r.names = preparation{}
	for i := range r.scripts[r.next:] {
		s := &r.scripts[r.next+i]
		for _, sql := range []string{sameScriptSQL, s.Head} {
			if _, done := r.names[sql]; done || s.Create || sql == s.Head && len(s.HeadArgs) == 0 {
				continue
			}
			name, err := r.prepare(ctx, c, sql)
			if err != nil && !refusal(err) {
				return err
			}
			r.names[sql] = name
		}
	}
	return nil
}

// call returns a statement with values for its parameters.
func (p preparation) call(sql string, args ...string) string {
	var b strings.Builder
	if name := p[sql]; name != "" {
		b.WriteString("execute " + name)
		for i, arg := range args {
			b.WriteByte("(,"[min(i, 1)])
			writeLiteral(&b, arg)
		}
		b.WriteByte(')')
		return b.String()
	}
	for i := 0; i < len(sql); i++ {
		if n := i + 1; sql[i] == '$' && n < len(sql) && sql[n] >= '1' && sql[n] <= '9' && int(sql[n]-'1') < len(args) {
			writeLiteral(&b, args[sql[n]-'1'])
			i = n
			continue
		}
		b.WriteByte(sql[i])
	}
	return b.String()
}

// writeScript writes one script with its transaction around it. It returns where its own text begins, and how many
// statements of ours come before it, a head of several left out.
func (r *scriptRun) writeScript(ctx context.Context, b *strings.Builder, s *backend.Script) (start, preamble int) {
	be := r.be
	ours := func(statement string) {
		b.WriteString(statement)
		b.WriteByte(';')
		preamble++
	}
	r.openScript(ours, s)
	path := "set local search_path=" + quote(s.Route.Store.String()) + ",public,pg_temp"
	first := s.Create || be.lent // whose path may be anything, and anything in it
	if first {
		ours(path)
	}
	fence := strings.TrimSuffix(fenceSQL(ctx), ";")
	switch key := strconv.Itoa(int(storeKey(s.Route.Store))); {
	case s.Create && fence != "":
		ours(strings.TrimSuffix(claimSQL(s.Route.Store), ";"))
	case s.Create:
		ours(strings.TrimSuffix(shareSQL(s.Route.Store), ";"))
	default:
		oid, _ := be.identity(s.Route) // 0 is no schema's
		ours(r.names.call(sameScriptSQL, key, quote(s.Route.Store.String()), strconv.FormatUint(uint64(oid), 10)))
	}
	if fence != "" {
		ours(fence)
	}
	if s.Create {
		for _, statement := range be.createSQL(s.Route) {
			ours(statement)
		}
	}
	called := len(s.HeadArgs) > 0
	if called {
		ours(r.names.call(s.Head, s.HeadArgs...))
	}
	if !first {
		ours(path)
	}
	if s.Head != "" && !called {
		// The newline ends a comment, the first semicolon a statement that has none.
		b.WriteString(s.Head + "\n;")
		if makes(s.Head) {
			b.WriteString(be.roles.handOverSQL(s.Route.Store))
		}
	}
	watched := r.watched(s)
	if watched {
		b.WriteString(beforeSQL(s.Route.Store, s.Head != ""))
	}
	b.WriteString(be.roles.assumeSQL(s.Route.Store))
	b.WriteString(s.Guard)
	start = b.Len()
	b.WriteString(s.SQL)
	b.WriteString("\n;")
	if watched {
		b.WriteString(lookSQL(s.Route.Store))
	}
	for _, also := range s.Also {
		b.WriteString(be.roles.resetSQL() + shareSQL(also.Store) + joined(be.createSQL(also)))
		b.WriteString("set local search_path=" + quote(also.Store.String()) + ",public,pg_temp;")
		b.WriteString(be.roles.assumeSQL(also.Store) + s.SQL + "\n;")
	}
	if !s.Create && !r.made && (makes(s.Head) && r.hides(s.Head) || r.hides(s.SQL)) {
		b.WriteString("set constraints all immediate;" + be.renewSQL(s.Route.Store))
	}
	b.WriteString("commit;\n")
	return start, preamble
}

// openScript writes what opens a script's transaction. SET LOCAL is cheap, a SELECT is not.
func (r *scriptRun) openScript(ours func(string), s *backend.Script) {
	for _, statement := range r.cleaning() {
		ours(statement)
	}
	timeout := r.opt.LockTimeout
	if timeout <= 0 {
		timeout = defaultLockTimeout
	}
	ours("begin")
	ours("set local lock_timeout=" + strconv.FormatInt(max(timeout.Milliseconds(), 1), 10))
	if r.be.roles.mode != rolesOff && (s.Create || s.Head != "") {
		ours("set local role none")
	}
	if r.opt.Async {
		ours("set local synchronous_commit=off")
	}
}

// cleaning is what takes away what the script before has left, out of sight too: in a transaction of its own, since that may
// be what transactions begin with. What a message is parsed by is set right before it is sent.
func (r *scriptRun) cleaning() []string {
	if r.c.cleanable() {
		return r.c.cleaning().inTurn
	}
	return nil
}

// makes reports whether a script's head may make something, which then is to be the role's. It errs on that side.
func makes(head string) bool { return strings.Contains(strings.ToLower(head), "create") }
