package manage_test

import (
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Shared rows from one database of a server to another; that they arrive is package placed's to test.
func TestPlaceShareCommands(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // skips where there is no Postgres
	server, err := pgtest.Start(t.Context(), "wal_level=logical", "max_wal_senders=4", "fsync=off", "icu_locale=en-US")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	var urls []string // an administrator's: databases go with the server
	for range 2 {
		u, _, err := server.NewDatabase(t.Context())
		require.NoError(t, err)
		urls = append(urls, server.AdminDatabaseURL(t, u))
	}
	two := &place{backend: sync.OnceValue(func() backend.Backend {
		be, err := backend.Open(t.Context(), "placed:?home="+url.QueryEscape(urls[0])+"&eu="+url.QueryEscape(urls[1]))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, be.Close()) })
		return be
	})}
	two.must(t, "migrate")
	require.Equal(t, "rows are not copied\n", two.must(t, "place", "share", "status"))
	require.JSONEq(t, `[]`, two.must(t, "place", "share", "status", "--json"))
	require.NotZero(t, two.run(t, &call{args: []string{"place", "share", "on"}}).status, "--from is missing")
	require.NotZero(t, two.run(t, &call{args: []string{"place", "share", "on", "nothing", "--from", urls[0]}}).status)
	c := two.run(t, &call{args: []string{"place", "share", "status"}})
	require.NotZero(t, c.status)
	require.Contains(t, c.stdout.String(), "it has no subscription")
	require.Contains(t, two.must(t, "place", "share", "on", "--from", urls[0]), "app place share status says how far")
	require.Eventually(t, func() bool { return two.run(t, &call{args: []string{"place", "share", "status"}}).status == 0 }, time.Minute, 20*time.Millisecond)
	require.Regexp(t, `(?m)^eu +plans +\d+ bytes`, two.must(t, "place", "share", "status"))
	two.must(t, "doctor")
	two.must(t, "place", "share", "off")
	require.Equal(t, "rows are not copied\n", two.must(t, "place", "share", "status"))
	two.must(t, "doctor")

	one := newPlace(t, backend.SQLite)
	for _, args := range [][]string{{"on"}, {"off"}, {"status"}} {
		c := one.run(t, &call{args: append([]string{"place", "share"}, args...)})
		require.NotZero(t, c.status)
		require.Contains(t, c.stderr.String(), "the stores of this backend are all in one place")
	}
}
