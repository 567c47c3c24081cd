package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/tenement-go/tenement/examples/polls/client"
	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/examples/polls/site"
)

// visitor opens pages of a site whose sign-ups end up in made.
type visitor struct {
	t       *testing.T
	handler http.Handler
	made    *[]site.Signup
	log     *bytes.Buffer
	remote  string // where requests come from, unless it is ""
}

func newVisitor(t *testing.T, change func(*site.Config)) visitor {
	v := visitor{t: t, made: &[]site.Signup{}, log: &bytes.Buffer{}}
	cfg := site.Config{
		Address: ".polls.test",
		List: func(context.Context) ([]site.Tenant, error) {
			return []site.Tenant{{Slug: "thor", Name: "Thor <b>& Sons</b>", URL: "http://thor.polls.test/"}}, nil
		},
		Create: func(_ context.Context, s site.Signup) (string, error) {
			if s.Slug == "taken" {
				return "", polls.Invalid{{Field: "slug", Message: "This address is taken."}}
			}
			if s.Slug == "broken" {
				return "", errors.New("the disk is full")
			}
			*v.made = append(*v.made, s)
			return "http://" + s.Slug + ".polls.test/admin/", nil
		},
		Plans: func(context.Context) ([]polls.Plan, error) {
			return []polls.Plan{{ID: "free", Name: "Free", MaxPolls: 10}, {ID: "city", Name: "City", PriceCents: 4950, MaxPolls: 10_000}}, nil
		},
		Logger: slog.New(slog.NewTextHandler(v.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	v.handler = site.Handler(cfg)
	return v
}

func (v visitor) send(method, path string, form url.Values, header map[string]string) (*httptest.ResponseRecorder, *html.Node) {
	v.t.Helper()
	r := httptest.NewRequest(method, "http://polls.test"+path, strings.NewReader(form.Encode()))
	if v.remote != "" {
		r.RemoteAddr = v.remote
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	v.handler.ServeHTTP(w, r)
	root, err := html.Parse(bytes.NewReader(w.Body.Bytes()))
	require.NoError(v.t, err)
	return w, root
}

// find returns the text of the elements for which the attribute has the value.
func find(root *html.Node, name, value string) (found []string) {
	for n := range root.Descendants() {
		for _, a := range n.Attr {
			if a.Key == name && a.Val == value {
				var b strings.Builder
				for d := range n.Descendants() {
					if d.Type == html.TextNode {
						b.WriteString(d.Data)
					}
				}
				found = append(found, strings.TrimSpace(b.String()))
			}
		}
	}
	return found
}

func valid() url.Values {
	return url.Values{"slug": {"odin"}, "name": {" Odin's hall "}, "username": {"admin"}, "password": {"correct-horse"}, "plan": {"city"}}
}

func TestFrontPage(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, nil)
	w, root := v.send("GET", "/", nil, nil)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, []string{"Thor <b>& Sons</b>"}, find(root, "href", "http://thor.polls.test/"), "escaped")
	assert.Contains(t, w.Body.String(), "thor.polls.test")
	assert.Contains(t, w.Body.String(), "€49.50")
	assert.Contains(t, w.Body.String(), "Up to 10,000 polls")
	assert.NotContains(t, w.Body.String(), "style=")
	require.Len(t, find(root, "rel", "stylesheet"), 1)
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, nil)
	w, root := v.send("GET", "/signup/?plan=city", nil, nil)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.NotEmpty(t, find(root, "checked", ""))

	w, _ = v.send("POST", "/signup/", valid(), nil)
	assert.Equal(t, http.StatusSeeOther, w.Code, w.Body.String())
	assert.Equal(t, "http://odin.polls.test/admin/", w.Header().Get("Location"))
	assert.Equal(t, []site.Signup{{Slug: "odin", Name: "Odin's hall", Username: "admin", Password: "correct-horse", Plan: "city"}}, *v.made)
}

func TestSignUpSaysWhatIsWrongAtTheField(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, nil)
	for _, c := range []struct{ field, value, message string }{
		{"slug", "", "Choose an address."},
		{"slug", "x", "An address has 2 to 40 characters."},
		{"slug", strings.Repeat("x", 41), "An address has 2 to 40 characters."},
		{"slug", "Odin", "Use lower-case letters, digits and single hyphens, and begin with a letter."},
		{"slug", "1st", "Use lower-case letters, digits and single hyphens, and begin with a letter."},
		{"slug", "a.b", "Use lower-case letters, digits and single hyphens, and begin with a letter."},
		{"slug", "odin-", "Use lower-case letters, digits and single hyphens, and begin with a letter."},
		{"slug", "xn--abc", "Use lower-case letters, digits and single hyphens, and begin with a letter."},
		{"slug", "taken", "This address is taken."},
		{"name", " ", "Enter a name."},
		{"name", "a\x00b", "One line of text, without control characters."},
		{"name", "a\xffb", "One line of text, without control characters."},
		{"username", "Admin", "Use lower-case letters, digits and @ . + - _ only, and begin with a letter or a digit."},
		{"password", "short", "A password has at least 8 characters."},
	} {
		form := valid()
		form.Set(c.field, c.value)
		w, root := v.send("POST", "/signup/", form, nil)
		assert.Equal(t, http.StatusUnprocessableEntity, w.Code, c)
		assert.Equal(t, []string{c.message}, find(root, "id", "d-"+c.field), c)
		assert.Len(t, find(root, "aria-invalid", "true"), 1, c)
		assert.NotContains(t, w.Body.String(), "correct-horse", "a password is never sent back")
	}
	form := valid()
	form.Set("plan", "gold")
	w, _ := v.send("POST", "/signup/", form, nil)
	assert.Contains(t, w.Body.String(), "Choose one of the plans.")
	assert.Empty(t, *v.made)
}

func TestSignUpIsBounded(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, func(c *site.Config) { c.SignupsPerHour = 2 })
	for range 2 {
		w, _ := v.send("POST", "/signup/", valid(), nil)
		require.Equal(t, http.StatusSeeOther, w.Code)
	}
	w, root := v.send("POST", "/signup/", valid(), map[string]string{"X-Forwarded-For": "203.0.113.9"})
	assert.Equal(t, http.StatusTooManyRequests, w.Code, "a header does not make another visitor")
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	assert.NotEmpty(t, find(root, "role", "alert"))
	assert.Len(t, *v.made, 2)

	// A network is a /64: who has one address in it has all. Behind a proxy it is the one that the proxy names.
	var proxies client.Proxies
	require.NoError(t, proxies.Set("10.0.0.0/8"))
	from := newVisitor(t, func(c *site.Config) { c.SignupsPerHour, c.Proxies = 1, proxies })
	for _, c := range []struct {
		remote, forwarded string
		want              int
	}{
		{"[2001:db8:1:2::1]:80", "", http.StatusSeeOther},
		{"[2001:db8:1:2:ffff::2]:80", "", http.StatusTooManyRequests},
		{"[2001:db8:1:3::1]:80", "198.51.100.1", http.StatusSeeOther},
		{"10.0.0.1:80", "198.51.100.1", http.StatusSeeOther},
		{"10.0.0.1:80", "198.51.100.2", http.StatusSeeOther},
		{"10.0.0.2:80", "198.51.100.2", http.StatusTooManyRequests},
		{"10.0.0.2:80", "192.0.2.1, 198.51.100.2", http.StatusTooManyRequests},
	} {
		from.remote = c.remote
		w, _ := from.send("POST", "/signup/", valid(), map[string]string{"X-Forwarded-For": c.forwarded})
		assert.Equal(t, c.want, w.Code, c)
	}

	form := valid()
	form.Set("name", strings.Repeat("x", 70_000))
	w, _ = v.send("POST", "/signup/", form, nil)
	assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	w, _ = v.send("POST", "/signup/", nil, map[string]string{"Content-Type": "application/json"})
	assert.Equal(t, http.StatusUnsupportedMediaType, w.Code)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, nil)
	form := valid()
	form.Set("slug", "broken")
	w, _ := v.send("POST", "/signup/", form, nil)
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	assert.NotContains(t, w.Body.String(), "disk")
	assert.Contains(t, v.log.String(), "the disk is full")

	w, _ = v.send("POST", "/signup/", valid(), map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.test"})
	assert.Equal(t, http.StatusForbidden, w.Code)
	w, _ = v.send("GET", "/polls/", nil, nil)
	assert.Equal(t, http.StatusNotFound, w.Code)
	w, _ = v.send("DELETE", "/signup/", nil, nil)
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
	assert.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))
	assert.Empty(t, *v.made)

	v = newVisitor(t, func(c *site.Config) {
		c.List = func(context.Context) ([]site.Tenant, error) { return nil, errors.New("no registry") }
	})
	w, _ = v.send("GET", "/", nil, nil)
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	assert.Panics(t, func() { site.Handler(site.Config{}) })
}

func TestRedirectAfterTheFormIsAllowed(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, func(c *site.Config) { c.FormTargets = []string{"http://*.polls.test"} })
	w, _ := v.send("GET", "/signup/", nil, nil)
	assert.Contains(t, w.Header().Get("Content-Security-Policy"), "form-action 'self' http://*.polls.test")
}
