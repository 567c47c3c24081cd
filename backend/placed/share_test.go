package placed_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Shared rows are written at home, and read by tenants in another place: between two servers, and between two databases
// of one, where a subscription that made its slot would wait for itself.
func TestShareRows(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // skips where there is no Postgres
	one, other := logicalServer(t), logicalServer(t)
	for name, there := range map[string]*pgtest.Cluster{"one server": one, "two servers": other} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSharing(t, newSharing(t, one, there))
		})
	}
	t.Run("what stops it", func(t *testing.T) {
		t.Parallel()
		testWhatStopsIt(t, newSharing(t, one, other))
	})
	t.Run("killed as it begins anew", func(t *testing.T) {
		t.Parallel()
		testKilledAsItBeginsAnew(t, newSharing(t, one, other), one.AdminURL())
	})
	t.Run("rows in the way", func(t *testing.T) {
		t.Parallel()
		s := newSharing(t, one, other)
		s.home, s.eu, s.euAdmin = with(t, s.home, "pool_max_conns", "1"), with(t, s.eu, "pool_max_conns", "1"), with(t, s.euAdmin, "pool_max_conns", "1")
		testRowsInTheWay(t, s)
	})
}

// A place goes on serving what it has while home is down, and its copying can be ended then.
func TestShareRowsWhileHomeIsDown(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t)
	one, other := logicalServer(t), logicalServer(t)
	s := newSharing(t, one, other)
	be := s.open(t, s.eu)
	admin := s.open(t, s.euAdmin)
	s.both(t, be, `CREATE TABLE plans (name text PRIMARY KEY, price int)`)
	rt := route("thor")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), rt))
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{From: s.from}))
	s.write(t, be, `INSERT INTO plans VALUES ('gold', 9)`)
	s.arrived(t)
	require.Equal(t, "gold:9", plansOf(t, be, rt))

	require.NoError(t, one.Kill(t.Context()))
	require.Equal(t, "gold:9", plansOf(t, be, rt))
	require.Error(t, admin.UnshareRows(t.Context()), "home has its part still")
	require.Zero(t, count(t, admin, "eu", `SELECT count(*) FROM pg_subscription`))
	require.NoError(t, one.Revive(t.Context()))
	require.Eventually(t, func() bool { return admin.Shared().PingContext(t.Context()) == nil }, time.Minute, 20*time.Millisecond)

	// Half of it is gone: that is found, and done again.
	require.Contains(t, advice(t, be), "place eu: nobody fetches what home keeps for it")
	require.Contains(t, advice(t, be), "it has no subscription; place share on makes it")
	require.NoError(t, admin.UnshareRows(t.Context()))
	require.Zero(t, count(t, admin, "home", `SELECT count(*) FROM pg_replication_slots`)+count(t, admin, "home", `SELECT count(*) FROM pg_publication`))
	require.Empty(t, advice(t, be))
	require.NoError(t, admin.UnshareRows(t.Context()), "there is nothing to be undone")
	require.Equal(t, "gold:9", plansOf(t, be, rt))
}

func TestShareRowsElsewhere(t *testing.T) {
	t.Parallel()
	be, err := backend.Open(t.Context(), "placed:?home="+url.QueryEscape("sqlite:"+t.TempDir())+"&eu="+url.QueryEscape("sqlite:"+t.TempDir()))
	require.NoError(t, err)
	defer func() { require.NoError(t, be.Close()) }()
	sharer := be.(backend.RowSharer)
	require.ErrorIs(t, sharer.ShareRows(t.Context(), backend.ShareOptions{}), errors.ErrUnsupported)
	require.ErrorIs(t, sharer.UnshareRows(t.Context()), errors.ErrUnsupported)
	shares, err := sharer.RowShares(t.Context())
	require.NoError(t, err)
	require.Empty(t, shares)

	// A server that does not write what it takes.
	u := pgtest.Shared(t).Database(t)
	pg := open(t, placed.Place{Name: "home", URL: u}, placed.Place{Name: "eu", URL: pgtest.Shared(t).Database(t)})
	require.ErrorContains(t, pg.ShareRows(t.Context(), backend.ShareOptions{}), "set wal_level=logical")
	require.NoError(t, pg.UnshareRows(t.Context()))
}

func testSharing(t *testing.T, s *sharing) {
	be := s.open(t, s.eu)
	admin := s.open(t, s.euAdmin)
	s.both(t, be, `CREATE TABLE plans (name text PRIMARY KEY, price int)`, `CREATE TABLE tenement_own (id int)`, `CREATE TABLE log (line text)`)
	rt := route("thor")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), rt))
	s.write(t, be, `INSERT INTO plans VALUES ('gold', 9)`)
	require.Empty(t, advice(t, be))

	// What is wrong is said, and leaves no slot for which home would keep its log.
	require.ErrorContains(t, admin.ShareRows(t.Context(), backend.ShareOptions{From: s.from}), "the table log has no primary key")
	only := backend.ShareOptions{Tables: []string{"plans"}, From: s.from}
	require.ErrorContains(t, admin.ShareRows(t.Context(), backend.ShareOptions{Tables: []string{"plans"}}), "say how its server reaches home")
	require.ErrorContains(t, be.ShareRows(t.Context(), only), "it takes a superuser's log-in")
	require.ErrorContains(t, admin.ShareRows(t.Context(), backend.ShareOptions{Tables: []string{"plans", "tenement_own"}, From: s.from}), "no shared table")
	require.Zero(t, count(t, be, "home", `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`))
	require.Contains(t, advice(t, be), "home has no slot for it")

	require.NoError(t, admin.ShareRows(t.Context(), only))
	s.arrived(t)
	require.Equal(t, "gold:9", plansOf(t, be, rt))
	s.write(t, be, `UPDATE plans SET price = 10`)
	s.write(t, be, `INSERT INTO plans VALUES ('silver', 5)`)
	s.arrived(t)
	require.Equal(t, "gold:10 silver:5", plansOf(t, be, rt))
	require.Empty(t, advice(t, be))
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{Tables: []string{"plans"}}), "it is so already")

	// A tenant can still not write there.
	_, err := be.DB().ExecContext(backend.WithRoute(t.Context(), rt), `INSERT INTO plans VALUES ('bronze', 1)`)
	require.ErrorIs(t, err, backend.ErrReadOnlyShared)

	// A table that a later migration makes.
	s.both(t, be, `DROP TABLE log`, `CREATE TABLE countries (code text PRIMARY KEY, plan text REFERENCES plans)`)
	s.write(t, be, `INSERT INTO countries VALUES ('NO', 'gold')`)
	require.Empty(t, advice(t, be), "the tables were named")
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{}))
	s.arrived(t)
	require.Equal(t, 1, count(t, be, "eu", `SELECT count(*) FROM countries`))
	s.both(t, be, `CREATE TABLE colours (name text PRIMARY KEY)`)
	require.Contains(t, advice(t, be), "the rows of colours are not copied")
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{}))
	s.arrived(t)

	// Killed in between: the slot is there, and nobody uses it.
	_, err = admin.In("eu").Shared().ExecContext(t.Context(), `ALTER SUBSCRIPTION `+s.subscription(t, admin)+` DISABLE`)
	require.NoError(t, err)
	require.Contains(t, advice(t, be), "its subscription is disabled")
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{}))
	s.write(t, be, `DELETE FROM countries`)
	s.arrived(t)
	require.Zero(t, count(t, be, "eu", `SELECT count(*) FROM countries`))
	shares, err := be.RowShares(t.Context())
	require.NoError(t, err)
	require.Len(t, shares, 1)
	require.Equal(t, []string{"colours", "countries", "plans"}, shares[0].Tables)
	require.Empty(t, shares[0].Faults)

	require.NoError(t, admin.UnshareRows(t.Context()))
	require.Zero(t, count(t, be, "home", `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`))
	require.Equal(t, "gold:10 silver:5", plansOf(t, be, rt))
	require.Empty(t, advice(t, be))
}

// A column that the place has not got yet, and a row that somebody wrote there: nothing is lost, it waits.
func testWhatStopsIt(t *testing.T, s *sharing) {
	be := s.open(t, s.eu)
	admin := s.open(t, s.euAdmin)
	s.both(t, be, `CREATE TABLE plans (name text PRIMARY KEY, price int)`)
	rt := route("thor")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), rt))
	require.NoError(t, admin.ShareRows(t.Context(), backend.ShareOptions{From: s.from}))
	s.write(t, be, `ALTER TABLE plans ADD COLUMN note text`)
	s.write(t, be, `INSERT INTO plans VALUES ('gold', 9, 'new')`)
	s.stopped(t, be)
	eu := be.In("eu").Shared()
	_, err := eu.ExecContext(t.Context(), `ALTER TABLE plans ADD COLUMN note text`)
	require.NoError(t, err)
	s.arrived(t)
	require.Equal(t, "gold:9", plansOf(t, be, rt))

	_, err = eu.ExecContext(t.Context(), `INSERT INTO plans VALUES ('silver', 1)`)
	require.NoError(t, err)
	s.write(t, be, `INSERT INTO plans VALUES ('silver', 5)`)
	s.stopped(t, be)
	require.Equal(t, "gold:9 silver:1", plansOf(t, be, rt))
	_, err = eu.ExecContext(t.Context(), `DELETE FROM plans WHERE name = 'silver'`)
	require.NoError(t, err)
	s.arrived(t)
	require.Equal(t, "gold:9 silver:5", plansOf(t, be, rt))
	require.Empty(t, advice(t, be))
	require.NoError(t, admin.UnshareRows(t.Context()))
}

// Home has lost the slot, and what is written meanwhile is in none. A subscription that was there still when there is one
// again would go on with it, without that.
func testKilledAsItBeginsAnew(t *testing.T, s *sharing, adminURL string) {
	be := s.open(t, s.eu)
	admin := s.open(t, s.euAdmin)
	s.both(t, be, `CREATE TABLE plans (name text PRIMARY KEY, price int)`)
	rt := route("thor")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), rt))
	again := backend.ShareOptions{From: s.from, Replace: true}
	require.NoError(t, admin.ShareRows(t.Context(), again))
	s.write(t, be, `INSERT INTO plans VALUES ('gold', 9)`)
	s.arrived(t)
	name := s.subscription(t, admin)
	_, err := admin.In("eu").Shared().ExecContext(t.Context(), `ALTER SUBSCRIPTION `+name+` DISABLE`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := be.Shared().ExecContext(t.Context(), `SELECT pg_drop_replication_slot($1)`, name)
		return err == nil
	}, time.Minute, 20*time.Millisecond, "it is in use until the worker has ended")
	s.write(t, be, `INSERT INTO plans VALUES ('silver', 5)`)

	require.Error(t, admin.ShareRows(t.Context(), backend.ShareOptions{Replace: true}), "nothing says how to begin")
	require.Equal(t, name, s.subscription(t, admin))

	// Nobody can make the slot, which is where a kill would be.
	server, err := sql.Open("pgx", adminURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()) }()
	u, err := url.Parse(s.home)
	require.NoError(t, err)
	_, err = server.ExecContext(t.Context(), `ALTER ROLE `+u.User.Username()+` NOREPLICATION`)
	require.NoError(t, err)
	require.ErrorContains(t, admin.ShareRows(t.Context(), again), "needs ALTER ROLE")
	require.Contains(t, advice(t, be), "it has no subscription")
	_, err = server.ExecContext(t.Context(), `ALTER ROLE `+u.User.Username()+` REPLICATION`)
	require.NoError(t, err)

	// It is made, and the kill comes then.
	s.write(t, be, `SELECT pg_create_logical_replication_slot('`+name+`', 'pgoutput')`)
	require.NoError(t, admin.ShareRows(t.Context(), again))
	s.arrived(t)
	require.Equal(t, "gold:9 silver:5", plansOf(t, be, rt))
	require.Empty(t, advice(t, be))
	require.NoError(t, admin.UnshareRows(t.Context()))
}

func testRowsInTheWay(t *testing.T, s *sharing) {
	be := s.open(t, s.eu)
	admin := s.open(t, s.euAdmin)
	s.both(t, be, `CREATE TABLE plans (name text PRIMARY KEY, price int)`, `INSERT INTO plans VALUES ('gold', 9)`)
	rt := route("thor")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), rt))
	in := backend.WithRoute(t.Context(), rt)
	eu := be.In("eu").Shared()
	for _, statement := range []string{`CREATE TABLE users (plan text REFERENCES plans)`, `INSERT INTO users VALUES ('gold')`} {
		_, err := be.DB().ExecContext(in, statement)
		require.NoError(t, err)
	}
	_, err := eu.ExecContext(t.Context(), `INSERT INTO plans VALUES ('stray', 0)`)
	require.NoError(t, err)
	s.write(t, be, `UPDATE plans SET price = 10`)

	opt := backend.ShareOptions{From: s.from}
	require.ErrorContains(t, admin.ShareRows(t.Context(), opt), "there are rows in plans already")
	require.Equal(t, "gold:9 stray:0", plansOf(t, be, rt))
	// A tenant's row refers to one that home has not: it is neither taken along nor left alone.
	_, err = be.DB().ExecContext(in, `INSERT INTO users VALUES ('stray')`)
	require.NoError(t, err)
	opt.Replace = true
	require.Error(t, admin.ShareRows(t.Context(), opt))
	require.Equal(t, "gold:9 stray:0", plansOf(t, be, rt))
	_, err = be.DB().ExecContext(in, `ALTER TABLE users DROP CONSTRAINT users_plan_fkey, ADD FOREIGN KEY (plan) REFERENCES plans ON DELETE CASCADE`)
	require.NoError(t, err)
	require.ErrorContains(t, admin.ShareRows(t.Context(), opt), "1 rows of plans are not home's")
	require.Zero(t, count(t, be, "home", `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`))
	_, err = be.DB().ExecContext(in, `DELETE FROM users WHERE plan = 'stray'`)
	require.NoError(t, err)
	_, err = eu.ExecContext(t.Context(), `DELETE FROM plans WHERE name = 'stray'`)
	require.NoError(t, err)
	require.NoError(t, admin.ShareRows(t.Context(), opt))
	s.arrived(t)
	require.Equal(t, "gold:10", plansOf(t, be, rt))
	// A row that goes at home goes, whoever refers to it; all at once do not.
	s.write(t, be, `INSERT INTO plans VALUES ('silver', 5)`)
	s.write(t, be, `DELETE FROM plans WHERE name = 'gold'`)
	s.arrived(t)
	require.Equal(t, "silver:5", plansOf(t, be, rt))
	s.write(t, be, `TRUNCATE plans`)
	s.stopped(t, be)
	require.Equal(t, "silver:5", plansOf(t, be, rt))
	require.NoError(t, admin.UnshareRows(t.Context()))
}

// sharing is two databases, the second of which an administrator can be sent to.
type sharing struct {
	home, eu, euAdmin string
	from              string
	plain             [2]string // home and eu, for whoever knows no pools
}

func logicalServer(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Start(t.Context(), "wal_level=logical", "max_wal_senders=16", "max_replication_slots=16", "max_logical_replication_workers=16",
		"max_worker_processes=32", "wal_retrieve_retry_interval=200ms", "fsync=off", "icu_locale=en-US")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	return c
}

// newSharing makes the databases. They go with their servers: one with a slot cannot be dropped.
func newSharing(t *testing.T, one, there *pgtest.Cluster) *sharing {
	t.Helper()
	s := &sharing{}
	var err error
	s.home, _, err = one.NewDatabase(t.Context())
	require.NoError(t, err)
	s.eu, _, err = there.NewDatabase(t.Context())
	require.NoError(t, err)
	s.plain = [2]string{s.home, s.eu}
	s.euAdmin = there.AdminDatabaseURL(t, s.eu)
	u, err := url.Parse(s.home)
	require.NoError(t, err)
	password, _ := u.User.Password()
	s.from = fmt.Sprintf("host=%s port=%s dbname=%s user=%s password=%s", u.Hostname(), u.Port(), u.Path[1:], u.User.Username(), password)
	admin, err := sql.Open("pgx", one.AdminURL())
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close()) }()
	_, err = admin.ExecContext(t.Context(), `ALTER ROLE `+u.User.Username()+` REPLICATION`)
	require.NoError(t, err)
	return s
}

func (s *sharing) open(t *testing.T, eu string) *placed.Backend {
	t.Helper()
	return open(t, placed.Place{Name: "home", URL: s.home}, placed.Place{Name: "eu", URL: eu})
}

// both does what a migration of the shared set does.
func (s *sharing) both(t *testing.T, be *placed.Backend, statements ...string) {
	t.Helper()
	for _, place := range be.Places() {
		for _, statement := range statements {
			_, err := be.In(place).Shared().ExecContext(t.Context(), statement)
			require.NoError(t, err)
		}
	}
}

func (s *sharing) write(t *testing.T, be *placed.Backend, statement string) {
	t.Helper()
	_, err := be.Shared().ExecContext(t.Context(), statement)
	require.NoError(t, err)
}

// arrived waits until the place has all that was committed at home, first copies included.
func (s *sharing) arrived(t *testing.T) {
	t.Helper()
	home, err := sql.Open("pgx", s.plain[0])
	require.NoError(t, err)
	defer func() { require.NoError(t, home.Close()) }()
	eu, err := sql.Open("pgx", s.plain[1])
	require.NoError(t, err)
	defer func() { require.NoError(t, eu.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var lsn string
	require.NoError(t, home.QueryRowContext(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&lsn))
	for {
		var copied, reached bool
		require.NoError(t, eu.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
			JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database() AND r.srsubstate <> 'r')`).Scan(&copied))
		require.NoError(t, home.QueryRowContext(ctx, `SELECT bool_and(active AND confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots
			WHERE database = current_database() AND slot_name LIKE 'tenement%'`, lsn).Scan(&reached))
		if copied && reached {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stopped waits until the doctor says that the copying does not get on.
func (s *sharing) stopped(t *testing.T, be *placed.Backend) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(advice(t, be), "the worker of its subscription is not running") }, time.Minute, 5*time.Millisecond)
}

func (s *sharing) subscription(t *testing.T, be *placed.Backend) (name string) {
	t.Helper()
	require.NoError(t, be.In("eu").Shared().QueryRowContext(t.Context(), `SELECT s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
		WHERE d.datname = current_database()`).Scan(&name))
	return name
}

func count(t *testing.T, be *placed.Backend, place, query string) (n int) {
	t.Helper()
	require.NoError(t, be.In(place).Shared().QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

// plansOf returns the shared rows as a tenant sees them.
func plansOf(t *testing.T, be *placed.Backend, rt backend.Route) (plans string) {
	t.Helper()
	require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), rt),
		`SELECT coalesce(string_agg(name || ':' || price, ' ' ORDER BY name), '') FROM plans`).Scan(&plans))
	return plans
}

// advice returns what the doctor says about shared rows.
func advice(t *testing.T, be *placed.Backend) (all string) {
	t.Helper()
	found, err := be.Advise(t.Context())
	require.NoError(t, err)
	for _, a := range found {
		all += a.Text + "\n"
	}
	return all
}
