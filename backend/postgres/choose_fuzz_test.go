package postgres

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// bits is a number whose bits are drawn one after the other.
type bits uint32

func (b *bits) flag() bool {
	bit := *b&1 != 0
	*b >>= 1
	return bit
}

// situationOf makes a situation of bits; all of them, when it is given all numbers below 1<<situationBits.
func situationOf(b bits) situation {
	here, elsewhere := backend.MustParseStore("here"), backend.MustParseStore("elsewhere")
	s := situation{mode: pgx.QueryExecModeCacheStatement, store: here, alone: b.flag(), plain: b.flag(), admits: b.flag(), pooled: b.flag(), stale: b.flag()}
	switch exec, describe := b.flag(), b.flag(); {
	case exec:
		s.mode = pgx.QueryExecModeExec
	case describe:
		s.mode = pgx.QueryExecModeCacheDescribe
	}
	if known := b.flag(); !known {
		return s
	}
	s.st = &statement{sd: &pgconn.StatementDescription{Name: "n", SQL: "SELECT 1"}, store: elsewhere}
	if own := b.flag(); own {
		s.st.store = here
	}
	if same := b.flag(); same {
		s.st.same = newAlike()
		s.st.same.add(here)
	}
	if described := b.flag(); described { // in a mode in which each store has its own
		s.st.sd.Name, s.st.store = "", here
	}
	if b.flag() {
		s.st.traits = star
	}
	s.st.varied, s.st.unparsed = b.flag(), b.flag()
	if variant := b.flag(); variant && s.st.store != here {
		s.variant = &statement{sd: &pgconn.StatementDescription{Name: "v"}, store: here, unparsed: b.flag(), of: s.st}
	}
	return s
}

const situationBits = 16

// What holds of every plan, whatever the situation.
func requireSound(t *testing.T, s situation) {
	p := choose(s)
	about := fmt.Sprintf("%+v: %+v", s, p)
	if p.describe {
		require.Equal(t, plan{describe: true}, p, "it is only asked, %s", about)
		return
	}
	require.True(t, p.parse || p.name != "", "it is parsed, or there under its name: %s", about)
	if p.st != nil {
		require.True(t, p.st.store == s.store || p.st.same.has(s.store), "arguments are encoded by types that hold in the store: %s", about)
	} else {
		require.True(t, s.plain || s.mode == pgx.QueryExecModeExec, "or are the same whatever the types: %s", about)
		require.False(t, p.binary, "and the columns are not known: %s", about)
	}
	if p.name != "" {
		require.False(t, s.st.varied || s.stale, "what may mean something else is parsed anew: %s", about)
		require.False(t, s.st.traits&star != 0 && !s.alone, "and what cannot be mended: %s", about)
	}
	switch {
	case p.keep:
		require.True(t, p.parse && s.admits && p.infer, "%s", about)
		require.Equal(t, variantName(s.st.sd.SQL, s.store), p.name, about)
		require.False(t, s.pooled && p.st == nil, "a pooler's servers keep what was prepared with the types of one store: %s", about)
		require.NotEqual(t, s.store, s.st.store, about)
	case p.name != "":
		require.Contains(t, []*statement{s.st, s.variant}, p.st, "it is one that is there: %s", about)
		require.Equal(t, p.st.sd.Name, p.name, about)
		require.Equal(t, p.st.unparsed, p.parse, about)
	}
	if s.variant != nil && p.name != "" {
		require.Equal(t, s.variant.sd.Name, p.name, "the store's own comes first: %s", about)
	}
}

// The statement chooser in all situations there are.
func TestChooseInEverySituation(t *testing.T) {
	t.Parallel()
	seen := map[plan]bool{}
	for b := range bits(1 << situationBits) {
		s := situationOf(b)
		requireSound(t, s)
		p := choose(s)
		p.st = nil
		seen[p] = true
	}
	require.Len(t, seen, 9, "ways to send one")
}
