package polls_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/client"
	"github.com/tenement-go/tenement/examples/polls/polls"
)

func TestPagesFromSignUpToTheChart(t *testing.T) {
	t.Parallel()
	cfg := polls.Config{Site: func(context.Context) polls.SiteInfo { return polls.SiteInfo{Name: "Thor & Sons"} }}
	onBothWith(t, cfg, func(t *testing.T, a *app) {
		p := a.poll(a.user("odin"), "Tea or mead?", "Tea", "Mead")
		path := fmt.Sprintf("/polls/%d/", p.ID)
		b := a.browser()

		home := b.get("/")
		assert.Equal(t, "/polls/", home.Path)
		assert.Equal(t, "Polls · Thor & Sons", text(home.one("title")))
		assert.Equal(t, "Tea or mead?", text(home.one("a", "href", path)))

		// Reading is public, voting is not: the page offers to log in, and comes back.
		page := b.get(path)
		assert.Empty(t, page.all("form", "action", path+"vote/"))
		assert.NotEmpty(t, page.all("a", "href", "/login/?next="+strings.ToLower(url.QueryEscape(path))))
		assert.Equal(t, "/login/?next="+url.QueryEscape(path), b.submit(path+"vote/", url.Values{"choice": {"1"}}).Path)

		signup := b.get("/signup/?next=" + url.QueryEscape(path))
		assert.Equal(t, path, attribute(signup.one("input", "name", "next"), "value"))
		page = b.submit("/signup/", url.Values{"username": {"freya"}, "password": {password}, "next": {path}})
		assert.Equal(t, path+"?notice=welcome", page.Path)
		assert.Equal(t, "freya", text(page.one("span", "class", "who")))

		// The form works without anything but HTML.
		form := page.one("form", "action", path+"vote/")
		assert.Equal(t, "post", attribute(form, "method"))
		require.Len(t, page.all("input", "type", "radio"), 2)
		assert.Empty(t, page.all("script"))

		wrong := b.submit(path+"vote/", url.Values{})
		assert.Equal(t, http.StatusUnprocessableEntity, wrong.Status)
		assert.Equal(t, "Pick one of the choices first.", text(wrong.one("p", "role", "alert")))

		page = b.submit(path+"vote/", url.Values{"choice": {fmt.Sprint(p.Choices[1].ID)}})
		assert.Equal(t, path+"?notice=voted", page.Path)
		assert.Equal(t, "Your vote has been counted.", text(page.one("p", "role", "status")))
		assert.Empty(t, page.all("input", "type", "radio"), "a vote cannot be changed")
		bars := page.all("rect", "class", "bar")
		require.Len(t, bars, 2)
		assert.Equal(t, []string{"0.00%", "100.00%"}, []string{attribute(bars[0], "width"), attribute(bars[1], "width")})
		ahead := page.one("li", "class", "ahead")
		assert.Contains(t, text(ahead), "Mead your vote")
		assert.Contains(t, text(ahead), "100%")

		again := b.submit(path+"vote/", url.Values{"choice": {fmt.Sprint(p.Choices[0].ID)}})
		assert.Equal(t, http.StatusConflict, again.Status)

		// A poll of one's own.
		made := b.submit("/polls/new/", url.Values{"question": {"Lunch?"}, "choices.1": {"Now"}, "choices.3": {"Later"}})
		assert.Equal(t, http.StatusOK, made.Status)
		assert.Equal(t, "Lunch?", text(made.one("h1")))
		require.Len(t, made.all("input", "type", "radio"), 2)

		// Log out: the session is worth nothing any more, on the server's side too.
		session := b.cookies[polls.SessionCookie]
		out := b.submit("/logout/", url.Values{})
		assert.Empty(t, out.all("span", "class", "who"))
		assert.NotContains(t, b.cookies, polls.SessionCookie)
		b.cookies[polls.SessionCookie] = session
		assert.Empty(t, b.get("/polls/").all("span", "class", "who"))
	})
}

func TestNewPollForm(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		a.user("freya")
		b := a.browser()
		assert.Equal(t, "/login/?next=%2Fpolls%2Fnew%2F", b.get("/polls/new/").Path)
		b.login("freya")
		got := b.submit("/polls/new/", url.Values{"question": {" "}, "choices.2": {"kept"}})
		assert.Equal(t, http.StatusUnprocessableEntity, got.Status)
		assert.Equal(t, "Enter a question.", text(got.one("p", "id", "d-question")))
		assert.Equal(t, "Give people at least two choices.", text(got.one("p", "id", "d-choices.2")))
		assert.Equal(t, "kept", attribute(got.one("input", "name", "choices.2"), "value"))

		// An error is shown at the row it is about, although the rows before it are empty.
		got = b.submit("/polls/new/", url.Values{"question": {"Ok?"}, "choices.2": {"fine"}, "choices.5": {strings.Repeat("x", 101)}})
		assert.Equal(t, "At most 100 characters.", text(got.one("p", "id", "d-choices.5")))
		assert.Equal(t, "true", attribute(got.one("input", "name", "choices.5"), "aria-invalid"))
		assert.Empty(t, a.api("GET", "/polls/", "", nil).list(http.StatusOK))
	})
}

func TestMarkupIsEscaped(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>`
	cfg := polls.Config{Site: func(context.Context) polls.SiteInfo { return polls.SiteInfo{Name: evil} }}
	onBothWith(t, cfg, func(t *testing.T, a *app) {
		p := a.poll(a.superuser("odin"), evil, evil, "harmless")
		b := a.browser()
		b.login("odin")
		admin := fmt.Sprintf("/admin/polls/%d/", p.ID)
		for _, path := range []string{"/polls/", fmt.Sprintf("/polls/%d/", p.ID), "/admin/", admin, "/admin/users/", "/login/?next=" + url.QueryEscape(evil), "/polls/?notice=" + url.QueryEscape(evil)} {
			page := b.get(path)
			assert.Empty(t, page.all("script"), path)
			assert.Empty(t, page.all("img"), path)
		}
		assert.Equal(t, evil, text(b.get(fmt.Sprintf("/polls/%d/", p.ID)).one("h1")))
		assert.Equal(t, evil, attribute(b.get(admin).one("input", "name", "question"), "value"))
		page := b.submit("/signup/", url.Values{"username": {evil}, "email": {evil}, "password": {evil}})
		assert.Equal(t, evil, attribute(page.one("input", "name", "username"), "value"))
		assert.Empty(t, attribute(page.one("input", "name", "password"), "value"), "a password is never sent back")
		assert.Empty(t, page.all("script"))
		// In JSON, markup cannot end up in a page either.
		assert.NotContains(t, a.api("GET", "/polls/", "", nil).Body.String(), "<script>")
	})
}

func TestOtherSitesCannotSendForms(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.superuser("odin"), "Tea or mead?", "Tea", "Mead")
		b := a.browser()
		b.login("odin")
		forms := map[string]url.Values{
			fmt.Sprintf("/polls/%d/vote/", p.ID):         {"choice": {fmt.Sprint(p.Choices[0].ID)}},
			fmt.Sprintf("/admin/polls/%d/", p.ID):        {"question": {"Hijacked?"}},
			fmt.Sprintf("/admin/polls/%d/delete/", p.ID): {},
			"/admin/users/new/":                          {"username": {"mallory"}, "password": {password}, "superuser": {"yes"}},
			"/login/":                                    {"username": {"odin"}, "password": {password}},
			"/logout/":                                   {},
		}
		for path, form := range forms {
			for _, header := range []map[string]string{
				{"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.test"},
				{"Sec-Fetch-Site": "same-site", "Origin": "http://potter.polls.test"},
				{"Sec-Fetch-Site": "", "Origin": "http://evil.test"},
				{"Sec-Fetch-Site": "", "Origin": "null"},
			} {
				got := b.send("POST", path, form, header)
				assert.Equal(t, http.StatusForbidden, got.Code, "%s %v", path, header)
			}
		}
		got, err := a.store.Poll(t.Context(), p.ID)
		require.NoError(t, err)
		assert.Equal(t, "Tea or mead?", got.Question)
		assert.Zero(t, got.Votes)
		users, err := a.store.Users(t.Context(), "", 10)
		require.NoError(t, err)
		assert.Len(t, users, 1)
	})
}

func TestCookies(t *testing.T) {
	t.Parallel()
	var proxies client.Proxies
	require.NoError(t, proxies.Set("10.0.0.0/8"))
	prefixed := func(_ context.Context, path string) string { return "/t/thor" + path }
	for name, c := range map[string]struct {
		cfg     polls.Config
		request func(r *http.Request)
		prefix  string
		path    string
		secure  bool
	}{
		"http":                    {polls.Config{}, func(*http.Request) {}, "", "/", false},
		"TLS":                     {polls.Config{}, func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, "__Host-", "/", true},
		"TLS on a path":           {polls.Config{URL: prefixed}, func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, "__Secure-", "/t/thor/", true},
		"TLS at the proxy":        {polls.Config{Proxies: proxies}, func(r *http.Request) { r.RemoteAddr = "10.1.2.3:80" }, "__Host-", "/", true},
		"what anybody could say":  {polls.Config{Proxies: proxies}, func(*http.Request) {}, "", "/", false},
		"http on a path":          {polls.Config{URL: prefixed}, func(*http.Request) {}, "", "/t/thor/", false},
		"no proxy is believed in": {polls.Config{}, func(r *http.Request) { r.RemoteAddr = "10.1.2.3:80" }, "", "/", false},
	} {
		a := newApp(t, openSQLite(t), c.cfg)
		a.user("freya")
		send := func(method, path string, form url.Values, cookies ...*http.Cookie) *http.Response {
			r := httptest.NewRequest(method, "http://polls.test"+path, strings.NewReader(form.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Accept", browserAccept)
			r.Header.Set("X-Forwarded-Proto", "https")
			c.request(r)
			for _, cookie := range cookies {
				r.AddCookie(cookie)
			}
			w := httptest.NewRecorder()
			a.handler.ServeHTTP(w, r)
			return w.Result()
		}
		in := url.Values{"username": {"freya"}, "password": {password}}
		got := send("POST", "/login/", in)
		require.Equal(t, http.StatusSeeOther, got.StatusCode, name)
		require.Len(t, got.Cookies(), 2, name)
		byName := map[string]*http.Cookie{}
		for _, cookie := range got.Cookies() {
			byName[cookie.Name] = cookie
			assert.True(t, cookie.HttpOnly, name)
			assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite, name)
			assert.Empty(t, cookie.Domain, "the cookie is this host's alone")
			assert.Equal(t, c.path, cookie.Path, name)
			assert.Equal(t, c.secure, cookie.Secure, name)
			assert.Len(t, cookie.Value, 43, "256 bits")
		}
		session, device := byName[c.prefix+polls.SessionCookie], byName[c.prefix+polls.DeviceCookie]
		require.NotNil(t, session, "%s: %v", name, byName)
		require.NotNil(t, device, "%s: %v", name, byName)
		assert.Equal(t, http.StatusOK, send("GET", "/polls/new/", nil, session).StatusCode, name)
		for _, prefix := range []string{"", "__Host-", "__Secure-"} {
			planted := &http.Cookie{Name: prefix + polls.SessionCookie, Value: session.Value}
			want := http.StatusSeeOther
			if prefix == c.prefix {
				want = http.StatusOK
			}
			assert.Equal(t, want, send("GET", "/polls/new/", nil, planted).StatusCode, "%s: %s", name, planted.Name)
		}
		assert.Len(t, send("POST", "/login/", in, device).Cookies(), 1, "a browser that is known stays so")
		out := send("POST", "/logout/", url.Values{}, session).Cookies()
		require.Len(t, out, 1)
		assert.Equal(t, session.Name, out[0].Name)
		assert.Equal(t, -1, out[0].MaxAge)
	}
}

// Whatever the votes are, the percentages make a hundred, and none is further from the truth than one.
func TestPercentagesAddUp(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []int64{34, 33, 33}, polls.Shares([]int64{1, 1, 1}))
	assert.Equal(t, []int64{17, 17, 17, 17, 16, 16}, polls.Shares([]int64{1, 1, 1, 1, 1, 1}))
	assert.Equal(t, []int64{0, 0}, polls.Shares([]int64{0, 0}))
	assert.Equal(t, []int64{0, 100}, polls.Shares([]int64{0, 7}))
	assert.Equal(t, []int64{0, 100}, polls.Shares([]int64{1, 999}))
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		votes := make([]int64, 1+random.IntN(20))
		var all int64
		for i := range votes {
			votes[i] = random.Int64N(1 << random.IntN(20))
			all += votes[i]
		}
		if all == 0 {
			continue
		}
		var sum int64
		for i, share := range polls.Shares(votes) {
			sum += share
			assert.InDelta(t, 100*float64(votes[i])/float64(all), float64(share), 1, votes)
		}
		assert.EqualValues(t, 100, sum, votes)
	}
}

func TestASessionIsWorthNothingInAnotherDatabase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, thor *app) {
		potter := newApp(t, openSQLite(t), polls.Config{})
		thor.superuser("admin")
		potter.superuser("admin")
		b := thor.browser()
		b.login("admin")
		assert.Equal(t, "Admin", text(b.get("/admin/").one("h1")))
		b.app = potter
		assert.Equal(t, "/admin/login/?next=%2Fadmin%2F", b.get("/admin/").Path)
		token := thor.token("admin")
		potter.api("POST", "/polls/", token, fields{"question": "?"}).fails(http.StatusUnauthorized, "")
	})
}

func TestLinksHaveThePrefix(t *testing.T) {
	t.Parallel()
	cfg := polls.Config{URL: func(_ context.Context, path string) string { return "/t/thor" + path }}
	onBothWith(t, cfg, func(t *testing.T, a *app) {
		p := a.poll(a.superuser("odin"), "?", "a", "b")
		session, _, err := a.store.CreateSignIn(t.Context(), polls.Session, p.CreatorID)
		require.NoError(t, err)
		b := a.browser()
		for _, in := range []string{"", session} {
			b.cookies[polls.SessionCookie] = in
			for _, path := range []string{"/polls/", fmt.Sprintf("/polls/%d/", p.ID), "/login/", "/signup/", "/polls/new/", "/admin/", "/admin/users/", "/admin/users/new/", "/admin/plans/", fmt.Sprintf("/admin/polls/%d/", p.ID), "/nowhere/"} {
				got := b.send("GET", path, nil, nil)
				if location := got.Header().Get("Location"); location != "" {
					assert.True(t, strings.HasPrefix(location, "/t/thor/"), location)
					continue
				}
				for _, part := range strings.Split(got.Body.String(), `="/`)[1:] {
					value, _, _ := strings.Cut(part, `"`)
					assert.True(t, strings.HasPrefix(value, "t/thor/") || isForm(value), "%s links to /%s", path, value)
				}
			}
		}
	})
}

// isForm tells whether a value with a slash is not a link: the page to go back to, which is kept without the prefix.
func isForm(value string) bool { return value == "polls/" || value == "admin/" }

func TestLogInLeadsToThisSiteOnly(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"":                       "/fallback/",
		"/polls/7/":              "/polls/7/",
		"/polls/?x=1#y":          "/polls/",
		"https://evil.test/":     "/fallback/",
		"//evil.test/":           "/fallback/",
		"///evil.test/":          "/fallback/",
		`/\evil.test/`:           "/fallback/",
		`\\evil.test/`:           "/fallback/",
		"/\t/evil.test/":         "/fallback/",
		"/%2fevil.test/":         "/fallback/",
		"/../admin/":             "/fallback/",
		"javascript:alert(1)":    "/fallback/",
		"polls/":                 "/fallback/",
		"http:///polls/":         "/fallback/",
		"/polls/\r\nSet-Cookie:": "/fallback/",
		"/%zz":                   "/fallback/",
	} {
		assert.Equal(t, want, polls.LocalPath(next, "/fallback/"), "%q", next)
	}
}

func TestOnePathTwoAudiences(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	p := a.poll(a.user("freya"), "Tea or mead?", "a", "b")
	for _, path := range []string{"/polls/", fmt.Sprintf("/polls/%d/", p.ID), "/polls/999/", "/nowhere/"} {
		page := a.do("GET", path, "", map[string]string{"Accept": browserAccept})
		assert.Equal(t, "text/html; charset=utf-8", page.Header().Get("Content-Type"), path)
		assert.Contains(t, page.Header().Get("Vary"), "Accept")
		for _, accept := range []string{"", "*/*", "application/json"} {
			got := a.do("GET", path, "", map[string]string{"Accept": accept})
			assert.Equal(t, "application/json", got.Header().Get("Content-Type"), path)
			assert.Equal(t, page.Code, got.Code)
		}
	}
	// A form to a path of the API is a form only for a browser.
	a.do("POST", "/login/", "username=freya", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}).
		fails(http.StatusUnsupportedMediaType, "")
	got := a.do("POST", "/login/", fmt.Sprintf(`{"username":"freya","password":%q}`, password), map[string]string{"Content-Type": "application/json", "Accept": browserAccept})
	got.object(http.StatusOK)
	assert.Empty(t, got.Header().Get("Set-Cookie"))
}

func TestPagesBadInput(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		p := a.poll(u, "?", "a", "b")
		b := a.browser()
		big := url.Values{"username": {strings.Repeat("x", 70_000)}}
		assert.Equal(t, http.StatusRequestEntityTooLarge, b.submit("/login/", big).Status)
		assert.Equal(t, http.StatusUnsupportedMediaType, b.send("POST", "/signup/", url.Values{}, map[string]string{"Content-Type": "text/plain"}).Code)
		assert.Equal(t, http.StatusBadRequest, b.open("GET", "/polls/?before=x", nil).Status)

		wrong := b.submit("/login/", url.Values{"username": {"freya"}, "password": {"wrong-horse"}, "next": {"/polls/new/"}})
		assert.Equal(t, http.StatusUnauthorized, wrong.Status)
		assert.Equal(t, "Wrong username or password.", text(wrong.one("p", "role", "alert")))
		assert.Equal(t, "freya", attribute(wrong.one("input", "name", "username"), "value"))
		assert.Equal(t, "/polls/new/", attribute(wrong.one("input", "name", "next"), "value"))

		taken := b.submit("/signup/", url.Values{"username": {"freya"}, "password": {password}})
		assert.Equal(t, http.StatusConflict, taken.Status)
		assert.Equal(t, "That username is taken.", text(taken.one("p", "id", "d-username")))
		both := b.submit("/signup/", url.Values{"username": {"X"}, "email": {"nowhere"}, "password": {"x"}})
		assert.Len(t, both.all("p", "class", "error"), 3, "each field says what is wrong with it")

		b.login("freya")
		for _, choice := range []string{"999", "x", "-1", "99999999999999999999"} {
			got := b.submit(fmt.Sprintf("/polls/%d/vote/", p.ID), url.Values{"choice": {choice}})
			assert.Contains(t, []int{http.StatusNotFound, http.StatusUnprocessableEntity}, got.Status, choice)
		}
		assert.Equal(t, http.StatusNotFound, b.submit("/polls/999/vote/", url.Values{"choice": {"1"}}).Status)
		b.cookies[polls.SessionCookie] = "not\x00a\x80session"
		assert.Equal(t, http.StatusOK, b.get("/polls/").Status)
		assert.Empty(t, a.log.String(), "nothing of this was the server's fault")
	})
}

func TestHeadersAndAssets(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	b := a.browser()
	page := b.send("GET", "/polls/", nil, nil)
	policy := page.Header().Get("Content-Security-Policy")
	assert.Contains(t, policy, "default-src 'none'")
	assert.Contains(t, policy, "frame-ancestors 'none'")
	assert.Equal(t, "nosniff", page.Header().Get("X-Content-Type-Options"))
	assert.Equal(t, "no-store", page.Header().Get("Cache-Control"))
	assert.NotContains(t, page.Body.String(), "style=", "the policy would not apply it")
	assert.NotContains(t, page.Body.String(), "<style")

	doc := b.get("/polls/")
	for _, link := range doc.all("link") {
		got := b.send("GET", attribute(link, "href"), nil, nil)
		assert.Equal(t, http.StatusOK, got.Code)
		assert.Contains(t, got.Header().Get("Cache-Control"), "immutable")
		again := b.send("GET", attribute(link, "href"), nil, map[string]string{"If-None-Match": got.Header().Get("ETag")})
		assert.Equal(t, http.StatusNotModified, again.Code)
	}
}
