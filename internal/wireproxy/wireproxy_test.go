package wireproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// proxied returns a proxy in front of a database of the test's own, and a connection through it.
func proxied(t *testing.T) (*Proxy, *pgx.Conn) {
	t.Helper()
	databaseURL := pgtest.Shared(t).Database(t)
	p, err := NewURL(databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	conn, err := pgx.Connect(t.Context(), p.URL(databaseURL))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	p.ResetRoundTrips()
	return p, conn
}

// S16: what is one round trip, and what is not, with pgx as the client.
func TestRoundTripsOfPgx(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	ctx := t.Context()
	trips := func(want int64, what string) {
		t.Helper()
		assert.Equal(t, want, p.ResetRoundTrips(), what)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := conn.Exec(ctx, sql, args...)
		require.NoError(t, err)
	}

	exec(`CREATE TABLE t (n int, s text)`)
	trips(1, "the simple protocol")
	exec(`INSERT INTO t VALUES ($1, $2)`, 1, "a")
	trips(2, "prepare, then execute")
	exec(`INSERT INTO t VALUES ($1, $2)`, 2, "b")
	trips(1, "a statement that is prepared")
	exec(`INSERT INTO t VALUES ($1, $2)`, 3, strings.Repeat("long", 1<<20))
	trips(1, "a statement of 4 MB")

	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `INSERT INTO t VALUES ($1, $2)`, 4, "c")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	trips(3, "a transaction of one statement")

	rows, err := conn.Query(ctx, `SELECT repeat('x', 1000) FROM generate_series(1, 5000)`, pgx.QueryExecModeExec)
	require.NoError(t, err)
	rows.Close()
	require.NoError(t, rows.Err())
	trips(1, "an answer of 5 MB")

	_, err = conn.Exec(ctx, `SELECT 1/0`)
	require.Error(t, err)
	trips(1, "an error")

	batch := &pgx.Batch{}
	for range 50 {
		batch.Queue(`INSERT INTO t VALUES ($1, $2)`, 5, "d")
	}
	require.NoError(t, conn.SendBatch(ctx, batch).Close())
	trips(1, "a batch of 50")

	pipeline := conn.PgConn().StartPipeline(ctx)
	for range 20 {
		pipeline.SendQueryParams(`SELECT 1`, nil, nil, nil, nil)
		require.NoError(t, pipeline.Sync())
	}
	require.NoError(t, pipeline.Close())
	assert.LessOrEqual(t, p.ResetRoundTrips(), int64(20), "a Sync that is sent at once may be answered before the next")

	_, err = conn.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n", "s"}, pgx.CopyFromSlice(10_000, func(i int) ([]any, error) {
		return []any{i, "some text that makes the data longer than one segment"}, nil
	}))
	require.NoError(t, err)
	trips(2, "COPY FROM: describe the columns, copy")
	exec(`SELECT 1`)
	trips(1, "after a copy the count goes on")

	require.NoError(t, conn.Close(ctx))
	trips(0, "the end")
}

// A pool asks whether a connection is still there that nobody has used for a second, which a machine that stalls brings about.
func TestPingAfterSilenceIsNoRoundTrip(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	config, err := pgxpool.ParseConfig(conn.Config().ConnString())
	require.NoError(t, err)
	pinged := 0
	config.MaxConns = 1
	config.ShouldPing = func(_ context.Context, of pgxpool.ShouldPingParams) bool {
		if of.IdleDuration <= PingAfter {
			return false
		}
		pinged++
		return true
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `SELECT 1`)
	require.NoError(t, err)
	for pinged == 0 {
		_, err = conn.Exec(t.Context(), `SELECT pg_sleep(1.1)`)
		require.NoError(t, err)
		p.ResetRoundTrips()
		_, err = pool.Exec(t.Context(), `SELECT 1`)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, p.ResetRoundTrips())
}

// Any other ping is one: it is what a pool does that asks each time.
func TestPings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		silent time.Duration
		asks   []byte
		want   int64
	}{
		{"after silence", 2 * PingAfter, ping, 0},
		{"at once", PingAfter / 2, ping, 1},
		{"another text", 2 * PingAfter, message('Q', []byte("-- pong\x00")...), 1},
		{"more than that", 2 * PingAfter, slices.Concat(ping, message('Q', []byte("SELECT 1\x00")...)), 1},
		{"two", 2 * PingAfter, slices.Concat(ping, ping), 1},
	} {
		for cut := 1; cut <= 14; cut++ {
			t.Run(fmt.Sprintf("%s/%d", tc.name, cut), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var trips atomic.Int64
					c := newCounter(&trips)
					c.fromClient(message(0, append(code(3<<16), "user\x00u\x00\x00"...)...))
					c.fromServer(append(message('R', code(0)...), message('Z', 'I')...))
					for range 2 { // the one before leaves nothing
						trips.Store(0)
						time.Sleep(tc.silent)
						for data := tc.asks; len(data) > 0; {
							n := min(cut, len(data))
							forward, _ := c.fromClient(data[:n])
							require.Equal(t, data[:n], forward)
							data = data[n:]
						}
						for range bytes.Count(tc.asks, []byte("Q")) {
							c.fromServer(append(message('I'), message('Z', 'I')...))
						}
						assert.Equal(t, tc.want, trips.Load())
						c.fromClient(message('Q', []byte("SELECT 1\x00")...))
						c.fromServer(append(message('C'), message('Z', 'I')...))
						assert.Equal(t, tc.want+1, trips.Load(), "what it was asked for")
					}
				})
			})
		}
	}
}

func TestNotificationsAreNoRoundTrips(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	other, err := pgx.ConnectConfig(t.Context(), conn.Config())
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), `LISTEN c`)
	require.NoError(t, err)
	p.ResetRoundTrips()
	for range 3 {
		_, err = other.Exec(t.Context(), `NOTIFY c`)
		require.NoError(t, err)
		_, err = conn.WaitForNotification(t.Context())
		require.NoError(t, err)
	}
	assert.Equal(t, int64(3), p.RoundTrips(), "those of the NOTIFYs alone")
}

func TestCancelRequestPassesUncounted(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	failed := make(chan error)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT pg_sleep(600)`)
		failed <- err
	}()
	canceller := conn.PgConn()
	for {
		require.NoError(t, canceller.CancelRequest(t.Context()))
		select {
		case err := <-failed:
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			assert.Equal(t, "57014", pgErr.Code)
			assert.Equal(t, int64(1), p.RoundTrips())
			return
		case <-time.After(20 * time.Millisecond): // the query may not have reached the server yet
		}
	}
}

func TestCutAllAndRefuse(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	config := conn.Config()
	require.Equal(t, 1, p.Connections())

	p.CutAll()
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	require.Error(t, err)
	assert.True(t, conn.IsClosed())

	p.Refuse(true)
	_, err = pgx.ConnectConfig(t.Context(), config)
	require.Error(t, err)
	p.Refuse(false)
	again, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, again.Ping(t.Context()))
	require.NoError(t, again.Close(t.Context()))
}

func TestCloseAll(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	p.CloseAll()
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	require.Error(t, err)
	assert.True(t, conn.IsClosed())
}

// The latency is added in both directions to what is sent, not to each piece of it: no upper bound is asserted, since
// a busy machine may take any time.
func TestLatencyDelaysAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	const each = 5 * time.Millisecond
	p.SetLatency(each)
	for range 5 {
		began := time.Now()
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM generate_series(1, 10)`).Scan(&n))
		assert.GreaterOrEqual(t, time.Since(began), 2*each)
		assert.Equal(t, 10, n)
	}
	var text string
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT string_agg(n::text, ',') FROM generate_series(1, 200000) n`).Scan(&text))
	p.SetLatency(0)
	var again string
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT string_agg(n::text, ',') FROM generate_series(1, 200000) n`).Scan(&again))
	assert.Equal(t, text, again)
}

// What is under way for long is dropped, and nobody waits for it: this test ends within the hour.
func TestCutWhileSomethingIsUnderWay(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	p.SetLatency(time.Hour)
	failed := make(chan error)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT 1`)
		failed <- err
	}()
	runtime.Gosched()
	p.CutAll()
	require.Error(t, <-failed)
	require.NoError(t, p.Close())
}

func TestURL(t *testing.T) {
	t.Parallel()
	p, err := New("127.0.0.1:1")
	require.NoError(t, err)
	defer func() { assert.NoError(t, p.Close()) }()
	host, port, err := net.SplitHostPort(p.Addr())
	require.NoError(t, err)

	assert.Equal(t, "postgres://u:p@"+p.Addr()+"/d?search_path=a&sslmode=disable",
		p.URL("postgres://u:p@db.example:5432/d?host=%2Ftmp&search_path=a&sslmode=require"))
	assert.Equal(t, "user=u host="+host+" port="+port+" sslmode=disable", p.URL("user=u"))
	_, err = pgx.Connect(t.Context(), p.URL("postgres://u@x/d"))
	require.Error(t, err, "nobody listens behind the proxy")
	for _, bad := range []string{"", "localhost", "a:b:c"} {
		_, err := New(bad)
		require.ErrorContains(t, err, "want host:port")
	}
	_, err = NewURL("dbname=app")
	require.ErrorContains(t, err, "names no host")
}

// message returns a message of the protocol with an empty or given body; kind 0 makes one without a letter.
func message(kind byte, body ...byte) []byte {
	var m []byte
	if kind != 0 {
		m = append(m, kind)
	}
	m = binary.BigEndian.AppendUint32(m, uint32(4+len(body)))
	return append(m, body...)
}

func code(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// The definition in the package comment, message by message, with the bytes cut at every place.
func TestCounter(t *testing.T) {
	t.Parallel()
	start := func(c *counter) {
		c.fromClient(message(0, append(code(3<<16), "user\x00u\x00\x00"...)...))
		c.fromServer(append(message('R', code(0)...), message('Z', 'I')...))
	}
	type step struct {
		client bool
		kinds  string
	}
	up := func(kinds string) step { return step{true, kinds} }
	down := func(kinds string) step { return step{false, kinds} }
	cases := []struct {
		name  string
		steps []step
		want  int64
	}{
		{"query", []step{up("Q"), down("TDDCZ")}, 1},
		{"two queries", []step{up("Q"), down("CZ"), up("Q"), down("CZ")}, 2},
		{"answer in pieces", []step{up("Q"), down("T"), down("D"), down("CZ")}, 1},
		{"burst in pieces", []step{up("P"), up("BD"), up("ES"), down("12TDCZ")}, 1},
		{"answers before the Sync, the server's buffer being full", []step{up("PBE"), down("12DD"), up("BES"), down("DC2DCZ")}, 1},
		{"two Syncs at once", []step{up("PBESBES"), down("12CZ2CZ")}, 1},
		{"second Sync before the first is answered", []step{up("PBES"), up("BES"), down("12CZ2CZ")}, 1},
		{"second Sync while the first is being answered", []step{up("PBES"), down("12"), up("BES"), down("CZ"), down("2CZ")}, 1},
		{"part of a message after the Sync", []step{up("BESB"), down("2CZ"), up("ES"), down("2CZ")}, 1},
		{"second Sync after the first is answered", []step{up("PBES"), down("12CZ"), up("BES"), down("2CZ")}, 2},
		{"Flush, answered, then the rest", []step{up("PDH"), down("1tT"), up("BES"), down("2CZ")}, 2},
		{"Flush, not waited for", []step{up("PDHBES"), down("1tT2CZ")}, 1},
		{"copy, waiting for the word to begin", []step{up("Q"), down("G"), up("dddc"), down("CZ")}, 1},
		{"copy, not waiting", []step{up("Qdd"), down("G"), up("dc"), down("CZ")}, 1},
		{"copy in the extended protocol, with the ignored Sync", []step{up("BES"), down("2G"), up("ddc"), up("S"), down("CZ"), up("Q"), down("CZ")}, 2},
		{"terminate", []step{up("X")}, 0},
		{"notice, notification", []step{down("NA"), up("Q"), down("CZ"), down("A")}, 1},
		{"unanswered", []step{up("Q")}, 0},
	}
	for _, tc := range cases {
		for cut := 1; cut <= 7; cut++ {
			t.Run(fmt.Sprintf("%s/%d", tc.name, cut), func(t *testing.T) {
				t.Parallel()
				var trips atomic.Int64
				c := newCounter(&trips)
				start(c)
				require.Equal(t, int64(1), trips.Swap(0), "the start-up")
				for _, s := range tc.steps {
					var data []byte
					for i := range len(s.kinds) {
						body := []byte("abc")
						if s.kinds[i] == 'Z' {
							body = []byte{'I'}
						}
						data = append(data, message(s.kinds[i], body...)...)
					}
					for len(data) > 0 {
						n := min(cut, len(data))
						if s.client {
							forward, answer := c.fromClient(data[:n])
							require.Equal(t, data[:n], forward)
							require.Nil(t, answer)
						} else {
							c.fromServer(data[:n])
						}
						data = data[n:]
					}
				}
				assert.Equal(t, tc.want, trips.Load())
			})
		}
	}
}

func TestCounterOfStartUp(t *testing.T) {
	t.Parallel()
	for cut := 1; cut <= 64; cut += 3 {
		var trips atomic.Int64
		c := newCounter(&trips)
		// send returns what reached the server and what the proxy answered.
		send := func(data []byte) (forwarded, answered []byte) {
			for len(data) > 0 {
				n := min(cut, len(data))
				forward, answer := c.fromClient(append([]byte(nil), data[:n]...))
				forwarded, answered = append(forwarded, forward...), append(answered, answer...)
				data = data[n:]
			}
			return forwarded, answered
		}
		forwarded, answered := send(message(0, code(gssRequest)...))
		assert.Empty(t, forwarded)
		assert.Equal(t, "N", string(answered))
		_, answered = send(message(0, code(sslRequest)...))
		assert.Equal(t, "N", string(answered))
		assert.Equal(t, int64(2), trips.Load())

		hello := message(0, append(code(3<<16), "user\x00someone\x00\x00"...)...)
		forwarded, answered = send(hello)
		assert.Equal(t, hello, forwarded)
		assert.Empty(t, answered)
		c.fromServer(message('R', code(10)...)) // SASL
		send(message('p', []byte("proof")...))
		c.fromServer(message('R', code(11)...)) // SASLContinue
		send(message('p', []byte("more")...))
		c.fromServer(append(message('R', code(12)...), message('R', code(0)...)...))
		c.fromServer(message('Z', 'I'))
		assert.Equal(t, int64(5), trips.Load(), "two refusals of encryption, start-up, two steps of the exchange")
	}

	var trips atomic.Int64
	c := newCounter(&trips)
	cancel := message(0, append(code(cancelRequest), "12345678"...)...)
	forward, _ := c.fromClient(cancel)
	assert.Equal(t, cancel, forward)
	c.fromServer([]byte{})
	assert.Zero(t, trips.Load())
}

// A client that asks for encryption goes on without, over a connection that the proxy sees into.
func TestEncryptionIsRefused(t *testing.T) {
	t.Parallel()
	p, conn := proxied(t)
	raw, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer func() { _ = raw.Close() }()
	_, err = raw.Write(message(0, code(sslRequest)...))
	require.NoError(t, err)
	answer := make([]byte, 1)
	_, err = io.ReadFull(raw, answer)
	require.NoError(t, err)
	assert.Equal(t, "N", string(answer))
	require.NoError(t, conn.Ping(t.Context()))
}
