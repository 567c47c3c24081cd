package postgres

import (
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	thor, loki := backend.MustParseStore("thor"), backend.MustParseStore("loki")
	const sql = "SELECT 1"
	known := func(change func(*statement)) *statement {
		st := &statement{sd: &pgconn.StatementDescription{Name: "n", SQL: sql}, store: thor}
		if change != nil {
			change(st)
		}
		return st
	}
	base := known(nil)
	same := known(func(st *statement) { st.same = newAlike(); st.same.add(loki) })
	star := known(func(st *statement) { st.traits = star })
	varied := known(func(st *statement) { st.varied = true })
	unnamed := known(func(st *statement) { st.sd.Name = "" })
	own := &statement{sd: &pgconn.StatementDescription{Name: "v"}, store: loki}
	const cached, described = pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe
	for name, c := range map[string]struct {
		in   situation
		want plan
	}{
		"mode exec":                          {situation{mode: pgx.QueryExecModeExec, store: thor}, plan{parse: true}},
		"never seen":                         {situation{mode: cached, store: thor}, plan{describe: true}},
		"described only":                     {situation{mode: described, store: thor, st: unnamed}, plan{st: unnamed, parse: true, binary: true}},
		"prepared":                           {situation{mode: cached, store: thor, st: base}, plan{st: base, name: "n", binary: true}},
		"its columns may differ, alone":      {situation{mode: cached, store: thor, st: star, alone: true}, plan{st: star, name: "n", binary: true}},
		"its columns may differ, in a tx":    {situation{mode: cached, store: thor, st: star}, plan{st: star, parse: true}},
		"it names something shared":          {situation{mode: cached, store: thor, st: varied, alone: true}, plan{st: varied, parse: true}},
		"the same elsewhere, plain":          {situation{mode: cached, store: loki, st: varied, plain: true}, plan{parse: true}},
		"the same elsewhere":                 {situation{mode: cached, store: loki, st: varied}, plan{describe: true}},
		"elsewhere, prepared for it":         {situation{mode: cached, store: loki, st: base, variant: own}, plan{st: own, name: "v", binary: true}},
		"elsewhere, types not known, plain":  {situation{mode: cached, store: loki, st: base, plain: true}, plan{parse: true, infer: true}},
		"elsewhere, types not known":         {situation{mode: cached, store: loki, st: base, admits: true}, plan{describe: true}},
		"elsewhere, plain, room for another": {situation{mode: cached, store: loki, st: base, plain: true, admits: true}, plan{name: variantName(sql, loki), parse: true, keep: true, infer: true}},
		"the same types, room for another":   {situation{mode: cached, store: loki, st: same, admits: true}, plan{st: same, name: variantName(sql, loki), parse: true, keep: true, infer: true}},
		"the same types, no room, alone":     {situation{mode: cached, store: loki, st: same, alone: true}, plan{st: same, name: "n", binary: true}},
		"the same types, no room, in a tx":   {situation{mode: cached, store: loki, st: same}, plan{st: same, parse: true}},
	} {
		assert.Equal(t, c.want, choose(c.in), name)
	}
}

func TestMend(t *testing.T) {
	t.Parallel()
	alone := standing{alone: true, maxExchanges: 2}
	with := func(change func(*standing)) standing {
		s := alone
		change(&s)
		return s
	}
	goodbye := failure{at: stepPrefix, code: "57P01", fatal: true, closed: true}
	for name, c := range map[string]struct {
		f    failure
		s    standing
		want remedy
	}{
		"the context is over":                     {failure{at: stepPrefix, code: codeNoStore, late: true}, alone, giveUp},
		"in a transaction":                        {failure{at: stepQuery, code: "0A000"}, standing{known: knownHere}, giveUp},
		"a good-bye instead of the prefix":        {goodbye, alone, exchange},
		"again and again":                         {goodbye, with(func(s *standing) { s.exchanged = 2 }), giveUp},
		"on a session that has run something":     {goodbye, with(func(s *standing) { s.used = true }), giveUp},
		"a good-bye instead of the statement":     {failure{at: stepQuery, code: "57P01", fatal: true, closed: true}, alone, giveUp},
		"lost without a word":                     {failure{at: stepPrefix, closed: true}, alone, giveUp},
		"lost before anything was sent":           {failure{at: stepQuery, closed: true, unsent: true}, alone, exchange},
		"the prepared prefix is gone":             {failure{at: stepPrefix, code: "26000"}, alone, distrust},
		"and gone again":                          {failure{at: stepPrefix, code: "26000"}, with(func(s *standing) { s.distrusted = 1 }), giveUp},
		"another schema than before":              {failure{at: stepPrefix, code: codeNoStore}, with(func(s *standing) { s.byOID = true }), reidentify},
		"and no store":                            {failure{at: stepPrefix, code: codeNoStore}, with(func(s *standing) { s.byOID, s.reidentified = true, 1 }), missing},
		"no schema":                               {failure{at: stepPrefix, code: codeNoSchema}, alone, missing},
		"a division by zero of the application's": {failure{at: stepQuery, code: codeNoStore}, alone, giveUp},
		"the role was reset":                      {failure{at: stepPrefix, code: codeNotRole}, with(func(s *standing) { s.role = true }), loserole},
		"something left, or a logarithm of ours":  {failure{at: stepPrefix, code: codeUntidy}, with(func(s *standing) { s.tidying = true }), cleanfirst},
		"which nobody asked for":                  {failure{at: stepPrefix, code: codeUntidy}, alone, giveUp},
		"the fence's lock was lost":               {failure{at: stepPrefix, code: codeFence}, with(func(s *standing) { s.role = true }), giveUp},
		"no such role":                            {failure{at: stepPrefix, code: "42704"}, with(func(s *standing) { s.role = true }), norole},
		"not in a transaction block":              {failure{at: stepQuery, code: "25001"}, alone, settle},
		"which the application began":             {failure{at: stepQuery, code: "25001"}, with(func(s *standing) { s.inTx = true }), giveUp},
		"another result than before":              {failure{at: stepQuery, code: "0A000"}, with(func(s *standing) { s.known = knownHere }), forget},
		"no such column, here":                    {failure{at: stepQuery, code: "42703"}, with(func(s *standing) { s.known = knownHere }), giveUp},
		"not of that type any more, here":         {failure{at: stepQuery, code: "42804"}, with(func(s *standing) { s.known = knownHere }), forget},
		"no such operator, by another's types":    {failure{at: stepQuery, code: "42883"}, with(func(s *standing) { s.known = knownElsewhere }), forget},
		"not permitted, by another's types":       {failure{at: stepQuery, code: "42501"}, with(func(s *standing) { s.known = knownElsewhere }), giveUp},
	} {
		assert.Equal(t, c.want, mend(c.f, c.s), name)
	}
}

// Where the variants do not fit, few are made: one that takes the place of another would be gone before it is used again.
func TestAdmits(t *testing.T) {
	t.Parallel()
	s := newStatements(8, 4)
	base := &statement{sd: &pgconn.StatementDescription{Name: "n"}, store: backend.MustParseStore("base")}
	admitted := 0
	for i := range 1000 {
		store := backend.MustParseStore("s" + strconv.Itoa(i))
		if s.admits() {
			admitted++
			s.putVariant(base, &statement{sd: &pgconn.StatementDescription{Name: "v" + strconv.Itoa(i)}, store: store})
		}
	}
	assert.Greater(t, admitted, 4, "what is in use gets in")
	assert.Less(t, admitted, 150)
	assert.Len(t, base.variants, 4)
	assert.Len(t, s.dropped, admitted-4, "the others are to be closed")
	none := newStatements(8, 0)
	assert.False(t, none.admits())
}
