package polls_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/client"
	"github.com/tenement-go/tenement/examples/polls/polls"
)

// Two networks of a stranger's, and one of somebody who knows the password.
const (
	stranger    = "[2001:db8:bad:1::1]:4711"
	strangerToo = "[2001:db8:bad:1:ffff::9]:4712" // another address in the same network
	elsewhere   = "198.51.100.7:4711"
)

type tenant struct{}

func tenantKey(ctx context.Context, parts ...string) string {
	who, _ := ctx.Value(tenant{}).(string)
	return who + "/" + strings.Join(parts, "/")
}

func TestLoginIsRateLimited(t *testing.T) {
	t.Parallel()
	onBothWith(t, polls.Config{LoginAttempts: 3, LoginWindow: time.Minute}, func(t *testing.T, a *app) {
		a.user("freya")
		a.user("loki")
		wrong := fields{"username": "freya", "password": "wrong-horse"}
		a.remote = stranger
		for range 3 {
			a.api("POST", "/login/", "", wrong).fails(http.StatusUnauthorized, "")
		}
		a.remote = strangerToo
		got := a.api("POST", "/login/", "", fields{"username": "freya", "password": password})
		got.fails(http.StatusTooManyRequests, "")
		assert.Equal(t, "60", got.Header().Get("Retry-After"), "not even the right password, for now")

		// The pages count with the API, other users and other tenants by themselves.
		page := a.browser().send("POST", "/login/", url.Values{"username": {"freya"}, "password": {password}}, nil)
		assert.Equal(t, http.StatusTooManyRequests, page.Code)
		assert.Equal(t, "60", page.Header().Get("Retry-After"))
		a.token("loki")
		inner := a.handler
		a.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenant{}, "potter")))
		})
		a.token("freya")
		a.handler = inner

		a.clock.Advance(time.Minute)
		a.token("freya")
		// Logging in forgives what was wrong before.
		for range 5 {
			a.api("POST", "/login/", "", wrong).fails(http.StatusUnauthorized, "")
			a.token("freya")
		}
	}, polls.WithKey(tenantKey))
}

// However many passwords a stranger tries, from however many networks, whoever knows the password gets in: from another
// network while the stranger has few, and from a browser that is known whatever the stranger has.
func TestAStrangerLocksNobodyOut(t *testing.T) {
	t.Parallel()
	onBothWith(t, polls.Config{LoginAttempts: 3}, func(t *testing.T, a *app) {
		a.superuser("admin")
		known := a.browser()
		a.remote = elsewhere
		known.login("admin")
		known.submit("/logout/", url.Values{})

		try := func() int {
			return a.browser().send("POST", "/login/", url.Values{"username": {"admin"}, "password": {"wrong-horse"}}, nil).Code
		}
		a.remote = stranger
		for range 3 {
			require.Equal(t, http.StatusUnauthorized, try())
		}
		require.Equal(t, http.StatusTooManyRequests, try())
		a.remote = elsewhere
		a.browser().login("admin")
		a.token("admin")

		// A stranger with many networks comes to an end, too.
		refused := 0
		for i := range 20 {
			for range 3 {
				a.remote = fmt.Sprintf("203.0.113.%d:80", i)
				if try() == http.StatusTooManyRequests {
					refused++
				}
			}
		}
		assert.Equal(t, 60-(30-3), refused, "30 are counted for a user, wherever they come from")
		a.remote = strangerToo
		known.login("admin")
		assert.Equal(t, "Admin", text(known.get("/admin/").one("h1")))

		// A known browser is bounded as well, and known for its own user only.
		known.submit("/logout/", url.Values{})
		form := url.Values{"username": {"admin"}, "password": {"wrong-horse"}}
		for range 3 {
			require.Equal(t, http.StatusUnauthorized, known.send("POST", "/login/", form, nil).Code)
		}
		require.Equal(t, http.StatusTooManyRequests, known.send("POST", "/login/", form, nil).Code)
		a.user("loki")
		own := a.browser()
		a.remote = "192.0.2.77:80"
		own.login("loki")
		assert.Equal(t, http.StatusTooManyRequests, own.send("POST", "/login/", form, nil).Code, "loki's browser is a stranger to admin")
	})
}

// One network cannot try the whole list of users either.
func TestANetworkIsBounded(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{LoginAttempts: 2})
	a.remote = stranger
	codes := map[int]int{}
	for i := range 30 {
		codes[a.api("POST", "/login/", "", fields{"username": fmt.Sprint("user", i), "password": "wrong-horse"}).Code]++
	}
	assert.Equal(t, map[int]int{http.StatusUnauthorized: 20, http.StatusTooManyRequests: 10}, codes)
	a.user("freya")
	a.remote = elsewhere
	for range 30 {
		a.token("freya") // What was right does not count.
	}
}

// Behind a proxy, visitors are told apart by what it says, and by nothing that they say themselves.
func TestNetworksBehindAProxy(t *testing.T) {
	t.Parallel()
	var proxies client.Proxies
	require.NoError(t, proxies.Set("10.0.0.0/8"))
	a := newApp(t, openSQLite(t), polls.Config{LoginAttempts: 1, Proxies: proxies})
	a.user("freya")
	try := func(remote, forwarded string) int {
		a.remote = remote
		return a.do("POST", "/login/", `{"username":"freya","password":"wrong-horse"}`,
			map[string]string{"Content-Type": "application/json", "X-Forwarded-For": forwarded}).Code
	}
	assert.Equal(t, http.StatusUnauthorized, try("10.0.0.1:80", "203.0.113.1"))
	assert.Equal(t, http.StatusUnauthorized, try("10.0.0.1:80", "203.0.113.2"))
	assert.Equal(t, http.StatusTooManyRequests, try("10.0.0.2:80", "198.51.100.1, 203.0.113.2"))
	assert.Equal(t, http.StatusUnauthorized, try(elsewhere, "203.0.113.3"))
	assert.Equal(t, http.StatusTooManyRequests, try(elsewhere, "203.0.113.4"))
}

func TestSignUpIsBounded(t *testing.T) {
	t.Parallel()
	onBothWith(t, polls.Config{SignUpsPerHour: 2}, func(t *testing.T, a *app) {
		sign := func(name string) answer {
			return a.api("POST", "/users/", "", fields{"username": name, "password": password})
		}
		a.remote = stranger
		for range 5 {
			sign("X").fails(http.StatusBadRequest, "username")
		}
		sign("one").object(http.StatusCreated)
		sign("two").object(http.StatusCreated)
		a.remote = strangerToo
		got := sign("three")
		got.fails(http.StatusTooManyRequests, "")
		assert.Equal(t, "3600", got.Header().Get("Retry-After"))
		page := a.browser().send("POST", "/signup/", url.Values{"username": {"three"}, "password": {password}}, nil)
		assert.Equal(t, http.StatusTooManyRequests, page.Code)
		a.remote = elsewhere
		sign("three").object(http.StatusCreated)
	})
}

// One customer's line is long, and nobody else's is: not even where one password is hashed at a time.
func TestEachKeyHasALineOfItsOwn(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{}, polls.WithHashLimit(1), polls.WithKey(tenantKey))
	at := func(who string) context.Context { return context.WithValue(t.Context(), tenant{}, who) }
	a.store.WaitInLine(time.Hour) // until they are told to go, however slow the machine is
	leave := a.store.HoldLine(t, at("thor"))
	waiting := make(chan error, 8)
	ctx, cancel := context.WithCancel(at("thor"))
	for i := range cap(waiting) {
		go func() {
			_, err := a.store.CreateUser(ctx, polls.NewUser{Username: fmt.Sprint("thor", i), Password: password})
			waiting <- err
		}()
	}
	a.store.WaitForLine(t, at("thor"), 1+cap(waiting))
	_, err := a.store.CreateUser(at("potter"), polls.NewUser{Username: "harry", Password: password})
	require.NoError(t, err)
	cancel()
	for range cap(waiting) {
		require.ErrorIs(t, <-waiting, context.Canceled)
	}
	leave()
	_, err = a.store.CreateUser(at("thor"), polls.NewUser{Username: "odin", Password: password})
	require.NoError(t, err)
	assert.Zero(t, a.store.Lines(), "an empty line takes no memory")
}
