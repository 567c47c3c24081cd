// Package browsertest takes the tour of the polls in a real browser: the binary as it is served, on SQLite and on Postgres,
// and a headless Chromium in front of it. It is a module of its own, so that nobody else gets its dependencies.
//
//	go test .                               with Chromium and Postgres installed
//	go test . -screenshots ../screenshots   also makes the pictures in the tour's README
package browsertest

import (
	"context"
	"flag"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

var screenshots = flag.String("screenshots", "", "write pictures of the main pages into `DIR`")

func TestTour(t *testing.T) {
	t.Parallel()
	browser, binary := chromium(t), build(t)
	for _, c := range []struct {
		name     string
		scripts  bool // whether the browser has JavaScript
		database func(t *testing.T) string
	}{
		{"sqlite", true, func(*testing.T) string { return "sqlite:data" }},
		{"sqlite without JavaScript", false, func(*testing.T) string { return "sqlite:data" }},
		{"postgres", true, func(t *testing.T) string { return pgtest.Shared(t).Database(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, binary, c.database(t), anyPort)
			t.Run("a third tenant", func(t *testing.T) { thirdTenant(t, s, visit(t, browser, c.scripts)) })
			t.Run("sessions and passwords end at the tenant", func(t *testing.T) { apart(t, s, visit(t, browser, c.scripts)) })
		})
	}
	if *screenshots != "" { // They show the port that the README speaks of.
		t.Run("screenshots", func(t *testing.T) { photographs(t, serve(t, binary, "sqlite:data", "127.0.0.1:8000"), browser) })
	}
}

// thirdTenant signs up asgard on the public site, opens a poll in its admin, votes, and sees the chart, of which the
// other tenants see nothing. S20
func thirdTenant(t *testing.T, s *server, v *visitor) {
	const (
		question = `Axe or <em>spear</em>?` // shown as it was typed
		password = "a rainbow to walk on"
	)
	require.Equal(t, 200, v.open(s.public("/")))
	assert.Contains(t, v.text(), "Thor")
	assert.Contains(t, v.text(), "Potter")
	assert.NotContains(t, v.text(), "Asgard")

	require.Equal(t, 200, v.follow("Get your own polls"))
	v.fill("name", "Asgard")
	v.fill("slug", "thor")
	v.fill("username", "frigg")
	v.fill("password", password)
	require.Equal(t, 422, v.press("Make my polls"), "the slug is Thor's") // S21
	assert.Contains(t, v.text(), "This name is taken.")

	require.Equal(t, 200, v.open(s.public("/signup/")))
	v.fill("name", "Asgard")
	v.fill("slug", "asgard")
	v.fill("username", "frigg")
	v.fill("password", password)
	require.Equal(t, 200, v.press("Make my polls"))
	require.True(t, strings.HasPrefix(v.address(), s.tenant("asgard", "/admin/login/")), "taken to %s", v.address())

	require.Equal(t, 200, v.logIn("frigg", password))
	require.Equal(t, "/admin/", path(t, v.address()))
	assert.Contains(t, v.text(), "Where shall we go for lunch?", "a new tenant has some polls to begin with")
	assert.NotContains(t, v.text(), "hammer", "a poll of Thor's")

	require.Equal(t, 200, v.follow("New poll"))
	v.fill("question", question)
	v.fill("choices.1", "Axe")
	v.fill("choices.2", "Spear")
	v.fill("choices.3", "Neither")
	require.Equal(t, 200, v.press("Open the poll"))
	require.Equal(t, 200, v.follow("View"))
	poll := path(t, v.address())
	require.Regexp(t, `^/polls/\d+/$`, poll)
	assert.Contains(t, v.text(), question)
	assert.Contains(t, v.text(), "0 votes")

	v.choose("Spear")
	require.Equal(t, 200, v.press("Vote"))
	require.Equal(t, poll, path(t, v.address()))
	assert.Contains(t, v.text(), "You have voted for Spear.")
	assert.Contains(t, v.text(), "100%")
	track := v.wide(".chart li.ahead .track")
	assert.Positive(t, track, "the chart is drawn")
	assert.Equal(t, track, v.wide(".chart li.ahead .bar"), "all votes are Spear's")
	assert.Zero(t, v.wide(".chart li:first-child .bar"), "nobody is for the axe")

	require.Equal(t, 200, v.open(s.tenant("asgard", "/polls/")))
	assert.Contains(t, v.text(), question)
	for _, other := range []string{"thor", "potter"} {
		require.Equal(t, 200, v.open(s.tenant(other, "/polls/")))
		assert.NotContains(t, v.text(), question, other)
		v.open(s.tenant(other, poll)) // a poll of their own with the same number, or none
		assert.NotContains(t, v.text(), question, other)
	}
	require.Equal(t, 200, v.open(s.public("/")))
	assert.Contains(t, v.text(), "Asgard")
}

// apart has one person with the same name and two passwords at two tenants, made on the command line beside the running
// server.
func apart(t *testing.T, s *server, v *visitor) {
	const atThor, atPotter = "ravens tell me all", "eight legs to ride on"
	s.manage(t, "exec", "thor", "--", "createsuperuser", "-username", "odin", "-password", atThor)
	s.manage(t, "exec", "potter", "--", "createsuperuser", "-username", "odin", "-password", atPotter)

	require.Equal(t, 200, v.open(s.tenant("potter", "/admin/")))
	require.Equal(t, "/admin/login/", path(t, v.address()))
	require.Equal(t, 401, v.logIn("odin", atThor), "Thor's password is none of Potter's")
	require.Equal(t, "/admin/login/", path(t, v.address()))

	require.Equal(t, 200, v.open(s.tenant("thor", "/admin/")))
	require.Equal(t, 200, v.logIn("odin", atThor))
	require.Equal(t, "/admin/", path(t, v.address()))

	// The browser keeps the session's cookie to Thor; handed to Potter all the same, it opens nothing there.
	cookies := v.cookies(s.tenant("thor", "/"))
	require.Len(t, cookies, 2, "the session, and that the browser is known")
	require.Empty(t, v.cookies(s.tenant("potter", "/")))
	require.Empty(t, v.cookies(s.public("/")))
	for _, cookie := range cookies {
		v.plant(cookie, s.tenant("potter", "/"))
	}
	require.Len(t, v.cookies(s.tenant("potter", "/")), 2)
	require.Equal(t, 200, v.open(s.tenant("potter", "/admin/")))
	assert.Equal(t, "/admin/login/", path(t, v.address()))
	require.Equal(t, 200, v.open(s.tenant("thor", "/admin/")))
	assert.Equal(t, "/admin/", path(t, v.address()), "it is still good at Thor's")

	require.Equal(t, 200, v.open(s.tenant("potter", "/admin/")))
	require.Equal(t, 200, v.logIn("odin", atPotter))
	assert.Equal(t, "/admin/", path(t, v.address()))
}

// photographs takes the pictures that the READMEs show.
func photographs(t *testing.T, s *server, browser context.Context) {
	v := visit(t, browser, true)
	require.Equal(t, 200, v.open(s.public("/")))
	v.photograph(*screenshots, "site")
	require.Equal(t, 200, v.open(s.tenant("thor", "/admin/")))
	require.Equal(t, 200, v.logIn("admin", demoPassword))
	require.Equal(t, 200, v.open(s.tenant("thor", "/admin/")))
	v.photograph(*screenshots, "admin")
	require.Equal(t, 200, v.open(s.tenant("thor", "/polls/")))
	v.photograph(*screenshots, "polls")
	require.Equal(t, 200, v.open(s.tenant("thor", "/polls/1/")))
	v.choose("Only the worthy")
	require.Equal(t, 200, v.press("Vote"))
	require.Equal(t, 200, v.open(s.tenant("thor", "/polls/1/"))) // without the notice that the vote was counted
	v.photograph(*screenshots, "results")
}

func path(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Path
}
