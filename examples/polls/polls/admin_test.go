package polls_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/polls"
)

func TestAdminIsForStaff(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.superuser("odin"), "?", "a", "b")
		member := a.user("freya")
		_, err := a.store.CreateUser(t.Context(), polls.NewUser{Username: "tyr", Password: password, Staff: true})
		require.NoError(t, err)
		staffPages := []string{"/admin/", "/admin/polls/new/", fmt.Sprintf("/admin/polls/%d/", p.ID), "/admin/plans/"}
		superPages := []string{"/admin/users/", "/admin/users/new/", fmt.Sprintf("/admin/users/%d/", member.ID)}
		forms := []string{"/admin/polls/new/", fmt.Sprintf("/admin/polls/%d/", p.ID), fmt.Sprintf("/admin/polls/%d/delete/", p.ID)}
		superForms := []string{"/admin/users/new/", fmt.Sprintf("/admin/users/%d/roles/", member.ID), fmt.Sprintf("/admin/users/%d/password/", member.ID)}

		nobody := a.browser()
		for _, path := range append(staffPages, superPages...) {
			got := nobody.send("GET", path, nil, nil)
			assert.Equal(t, "/admin/login/?next="+url.QueryEscape(path), got.Header().Get("Location"))
		}
		for _, path := range append(forms, superForms...) {
			got := nobody.send("POST", path, url.Values{"superuser": {"yes"}}, nil)
			assert.Equal(t, "/admin/login/?next=%2Fadmin%2F", got.Header().Get("Location"))
		}

		freya := a.browser()
		freya.login("freya")
		for _, path := range append(staffPages, superPages...) {
			assert.Equal(t, http.StatusForbidden, freya.get(path).Status, path)
		}
		for _, path := range append(forms, superForms...) {
			assert.Equal(t, http.StatusForbidden, freya.submit(path, url.Values{"superuser": {"yes"}, "password": {"another-horse"}}).Status, path)
		}

		tyr := a.browser()
		tyr.login("tyr")
		for _, path := range staffPages {
			page := tyr.get(path)
			assert.Equal(t, http.StatusOK, page.Status, path)
			assert.Empty(t, page.all("a", "href", "/admin/users/"))
		}
		for _, path := range superPages {
			assert.Equal(t, http.StatusForbidden, tyr.get(path).Status, path)
		}
		for _, path := range superForms {
			assert.Equal(t, http.StatusForbidden, tyr.submit(path, url.Values{"superuser": {"yes"}, "password": {"another-horse"}}).Status, path)
		}
		got, err := a.store.User(t.Context(), member.ID)
		require.NoError(t, err)
		assert.False(t, got.Staff || got.Superuser)

		// The admin's own log-in takes staff only, and gives others no session.
		door := a.browser()
		refused := door.submit("/admin/login/", url.Values{"username": {"freya"}, "password": {password}})
		assert.Equal(t, http.StatusForbidden, refused.Status)
		assert.Equal(t, "Admin log-in", text(refused.one("h1")))
		assert.Empty(t, door.cookies)
		page := door.submit("/admin/login/", url.Values{"username": {"tyr"}, "password": {password}, "next": {"/admin/plans/"}})
		assert.Equal(t, "Plans", text(page.one("h1")))
		assert.Len(t, page.all("article"), 3)
	})
}

func TestAdminPolls(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		a.superuser("odin")
		loki := a.user("loki")
		b := a.browser()
		b.login("odin")
		assert.Contains(t, text(b.get("/admin/").one("main")), "No polls yet")

		page := b.submit("/admin/polls/new/", url.Values{"question": {"Tea or mead?"}, "choices.1": {"Tea"}, "choices.2": {"Mead"}, "choices.3": {"Watter"}})
		assert.Equal(t, "Edit poll", text(page.one("h1")))
		path, _, _ := strings.Cut(page.Path, "?")
		all, err := a.store.Polls(t.Context(), polls.FirstPage, 10)
		require.NoError(t, err)
		p, err := a.store.Poll(t.Context(), all[0].ID)
		require.NoError(t, err)
		require.NoError(t, a.store.Vote(t.Context(), p.ID, p.Choices[0].ID, loki.ID))
		field := func(i int) string { return fmt.Sprintf("choice.%d", p.Choices[i].ID) }

		// A mistake changes nothing and is shown where it was made, with everything else as it was entered.
		wrong := b.submit(path, url.Values{"question": {"New?"}, field(0): {""}, field(1): {"Beer"}, "add.2": {strings.Repeat("x", 101)}})
		assert.Equal(t, http.StatusUnprocessableEntity, wrong.Status)
		assert.Equal(t, "true", attribute(wrong.one("input", "name", field(0)), "aria-invalid"))
		assert.Equal(t, "true", attribute(wrong.one("input", "name", "add.2"), "aria-invalid"))
		assert.Equal(t, "Beer", attribute(wrong.one("input", "name", field(1)), "value"))
		assert.Len(t, wrong.all("p", "class", "error"), 2)

		// Change one, delete one with its vote, leave one out of the form, add one.
		saved := b.submit(path, url.Values{
			"question": {"Mead or water?"}, field(2): {"Water"},
			fmt.Sprintf("delete.%d", p.Choices[0].ID): {"yes"}, "add.3": {"Both"},
		})
		assert.Equal(t, "The changes have been saved.", text(saved.one("p", "role", "status")))
		p, err = a.store.Poll(t.Context(), p.ID)
		require.NoError(t, err)
		assert.Equal(t, "Mead or water?", p.Question)
		var texts []string
		for _, c := range p.Choices {
			texts = append(texts, c.Text)
		}
		assert.Equal(t, []string{"Mead", "Water", "Both"}, texts)
		assert.Zero(t, p.Votes)
		require.NoError(t, a.store.Vote(t.Context(), p.ID, p.Choices[0].ID, loki.ID), "whose choice is gone votes again")

		gone := b.submit(path+"delete/", url.Values{})
		assert.Equal(t, "The poll has been deleted.", text(gone.one("p", "role", "status")))
		assert.Equal(t, http.StatusNotFound, b.get(path).Status)
		assert.Equal(t, http.StatusNotFound, b.submit(path, url.Values{"question": {"?"}}).Status)
		assert.Equal(t, http.StatusNotFound, b.submit(path+"delete/", url.Values{}).Status)
	})
}

func TestAdminUsers(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		odin := a.superuser("odin")
		b := a.browser()
		b.login("odin")

		wrong := b.submit("/admin/users/new/", url.Values{"username": {"Tyr"}, "password": {"short"}, "staff": {"yes"}})
		assert.Equal(t, http.StatusUnprocessableEntity, wrong.Status)
		assert.Len(t, wrong.all("p", "class", "error"), 2)
		list := b.submit("/admin/users/new/", url.Values{"username": {"tyr"}, "password": {password}, "staff": {"yes"}})
		assert.Equal(t, "The user has been added.", text(list.one("p", "role", "status")))
		tyr, err := a.store.Authenticate(t.Context(), "tyr", password)
		require.NoError(t, err)
		assert.True(t, tyr.Staff)
		assert.False(t, tyr.Superuser)
		assert.Equal(t, http.StatusConflict, b.submit("/admin/users/new/", url.Values{"username": {"tyr"}, "password": {password}}).Status)

		path := fmt.Sprintf("/admin/users/%d/", tyr.ID)
		page := b.submit(path+"roles/", url.Values{})
		assert.Equal(t, http.StatusOK, page.Status)
		tyr, err = a.store.User(t.Context(), tyr.ID)
		require.NoError(t, err)
		assert.False(t, tyr.Staff)

		// Nobody locks everybody out.
		last := b.submit(fmt.Sprintf("/admin/users/%d/roles/", odin.ID), url.Values{"staff": {"yes"}})
		assert.Equal(t, http.StatusConflict, last.Status)
		assert.NotEmpty(t, last.all("p", "role", "alert"))

		token := a.token("tyr")
		assert.Equal(t, http.StatusUnprocessableEntity, b.submit(path+"password/", url.Values{"password": {"short"}}).Status)
		b.submit(path+"password/", url.Values{"password": {"another-horse"}})
		a.api("POST", "/polls/", token, fields{"question": "?"}).fails(http.StatusUnauthorized, "")
		_, err = a.store.Authenticate(t.Context(), "tyr", "another-horse")
		require.NoError(t, err)

		// One's own new password ends all sessions but gives this browser a new one.
		before := b.cookies[polls.SessionCookie]
		own := b.submit(fmt.Sprintf("/admin/users/%d/password/", odin.ID), url.Values{"password": {"another-horse"}})
		assert.Equal(t, http.StatusOK, own.Status)
		assert.Equal(t, "odin", text(own.one("h1")))
		assert.NotEqual(t, before, b.cookies[polls.SessionCookie])
		assert.Equal(t, http.StatusNotFound, b.get("/admin/users/999/").Status)
		assert.Equal(t, http.StatusNotFound, b.get("/admin/users/x/").Status)
		assert.Empty(t, a.log.String())
	})
}

func TestAdminListsArePaged(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		odin := a.superuser("odin")
		for i := range 61 {
			a.user(fmt.Sprintf("member%02d", i))
			a.poll(odin, fmt.Sprint("Number ", i))
		}
		b := a.browser()
		b.login("odin")
		users := b.get("/admin/users/")
		assert.Len(t, users.all("time"), 60)
		more := b.get("/admin/users/?after=member59")
		assert.Len(t, more.all("time"), 2)
		assert.Len(t, users.all("a", "href", "/admin/users/?after=member59"), 1)
		for _, path := range []string{"/admin/", "/polls/"} {
			first := b.get(path)
			require.Len(t, first.all("time"), 60)
			older := ""
			for _, link := range first.all("a") {
				if text(link) == "Older polls" {
					older = attribute(link, "href")
				}
			}
			require.NotEmpty(t, older)
			assert.Len(t, b.get(older).all("time"), 1)
		}
		assert.Equal(t, http.StatusBadRequest, b.get("/admin/users/?after=%00").Status)
	})
}
