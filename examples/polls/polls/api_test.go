package polls_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/polls"
)

func TestAPITour(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		assert.Empty(t, a.api("GET", "/polls/", "", nil).list(http.StatusOK))

		user := a.api("POST", "/users/", "", fields{"username": "freya", "email": "freya@asgard.test", "password": password}).object(http.StatusCreated)
		assert.Equal(t, "freya", user["username"])
		assert.NotContains(t, user, "password")
		token := a.token("freya")

		made := a.api("POST", "/polls/", token, fields{"question": "Tea or mead?"})
		poll := made.object(http.StatusCreated)
		path := fmt.Sprintf("/polls/%v/", poll["id"])
		assert.Equal(t, path, made.Header().Get("Location"))
		assert.Empty(t, poll["choices"])
		assert.Equal(t, "freya", poll["created_by"])

		tea := a.api("POST", path+"choices/", token, fields{"choice_text": "Tea"}).object(http.StatusCreated)
		a.api("POST", path+"choices/", token, fields{"choice_text": "Mead"}).object(http.StatusCreated)
		choices := a.api("GET", path+"choices/", "", nil).list(http.StatusOK)
		require.Len(t, choices, 2)
		assert.Equal(t, "Tea", choices[0]["choice_text"])

		vote := fmt.Sprintf("%schoices/%v/vote/", path, tea["id"])
		got := a.api("POST", vote, token, nil).object(http.StatusCreated)
		assert.Equal(t, fields{"poll": poll["id"], "choice": tea["id"], "voted_by": "freya"}, got)
		a.api("POST", vote, token, nil).fails(http.StatusConflict, "")
		other := fmt.Sprintf("%schoices/%v/vote/", path, choices[1]["id"])
		a.api("POST", other, token, fields{}).fails(http.StatusConflict, "")

		detail := a.api("GET", path, "", nil).object(http.StatusOK)
		assert.EqualValues(t, 1, detail["votes"])
		assert.EqualValues(t, 1, detail["choices"].([]any)[0].(fields)["votes"])

		list := a.api("GET", "/polls/", "", nil).list(http.StatusOK)
		require.Len(t, list, 1)
		assert.Equal(t, poll["id"], list[0]["id"])
		assert.Equal(t, "Tea or mead?", list[0]["question"])

		changed := a.api("PUT", path, token, fields{"question": "Coffee?"}).object(http.StatusOK)
		assert.Equal(t, "Coffee?", changed["question"])
		changed = a.api("PATCH", path, token, fields{}).object(http.StatusOK)
		assert.Equal(t, "Coffee?", changed["question"], "what is not sent stays")
		a.api("PUT", path, token, fields{}).fails(http.StatusBadRequest, "question")

		gone := a.api("DELETE", path, token, nil)
		assert.Equal(t, http.StatusNoContent, gone.Code)
		assert.Empty(t, gone.Body.String())
		a.api("GET", path, "", nil).fails(http.StatusNotFound, "")
		a.api("DELETE", path, token, nil).fails(http.StatusNotFound, "")
	})
}

func TestAPIWhoMayWhat(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.user("freya"), "Whose?", "mine", "yours")
		a.superuser("odin")
		path := fmt.Sprintf("/polls/%d/", p.ID)
		vote := fmt.Sprintf("%schoices/%d/vote/", path, p.Choices[0].ID)
		changes := []struct {
			method, path string
			body         any
		}{
			{"POST", "/polls/", fields{"question": "?"}},
			{"PUT", path, fields{"question": "?"}},
			{"PATCH", path, fields{"question": "?"}},
			{"DELETE", path, nil},
			{"POST", path + "choices/", fields{"choice_text": "x"}},
			{"POST", vote, nil},
		}
		for _, c := range changes {
			got := a.api(c.method, c.path, "", c.body)
			got.fails(http.StatusUnauthorized, "")
			assert.Equal(t, "Token", got.Header().Get("WWW-Authenticate"))
			a.api(c.method, c.path, "not-a-token", c.body).fails(http.StatusUnauthorized, "")
		}
		// Not even a superuser adds choices to somebody else's poll; the admin is for that.
		for _, name := range []string{"odin"} {
			token := a.token(name)
			for _, c := range changes[1:5] {
				a.api(c.method, c.path, token, c.body).fails(http.StatusForbidden, "")
			}
			a.api("POST", vote, token, nil).object(http.StatusCreated)
		}
		// A token that is not valid is refused where none is needed, too: another database's token, for one.
		for _, read := range []string{"/polls/", path, path + "choices/"} {
			a.api("GET", read, "not-a-token", nil).fails(http.StatusUnauthorized, "")
		}
		a.do("GET", "/polls/", "", map[string]string{"Authorization": "Bearer x"}).fails(http.StatusUnauthorized, "")
		// A session's cookie is not a token, and the other way around.
		session, _, err := a.store.CreateSignIn(t.Context(), polls.Session, p.CreatorID)
		require.NoError(t, err)
		a.api("POST", vote, session, nil).fails(http.StatusUnauthorized, "")
		a.do("POST", vote, "", map[string]string{"Cookie": polls.SessionCookie + "=" + session}).fails(http.StatusUnauthorized, "")
	})
}

func TestAPITokenEnds(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		a.user("freya")
		token := a.token("freya")
		a.clock.Advance(91 * 24 * time.Hour)
		a.api("POST", "/polls/", token, fields{"question": "?"}).fails(http.StatusUnauthorized, "")
	})
}

func TestAPIBadInput(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		token := a.token("freya")
		p := a.poll(u, "Whose?", "mine", "yours")
		path := fmt.Sprintf("/polls/%d/", p.ID)
		long := strings.Repeat("x", 300)

		for _, c := range []struct {
			name, method, path string
			body               any
			status             int
			field              string
		}{
			{"empty body", "POST", "/polls/", "", 400, ""},
			{"not JSON", "POST", "/polls/", "question=x", 400, ""},
			{"half an object", "POST", "/polls/", `{"question": "x"`, 400, ""},
			{"trailing garbage", "POST", "/polls/", `{"question": "x"} x`, 400, ""},
			{"two objects", "POST", "/polls/", `{"question": "x"}{}`, 400, ""},
			{"a list", "POST", "/polls/", `[]`, 400, ""},
			{"null", "POST", "/polls/", `null`, 400, ""},
			{"unknown field", "POST", "/polls/", fields{"question": "x", "created_by": 7}, 400, "created_by"},
			{"field in another case", "POST", "/polls/", fields{"Question": "x"}, 400, "Question"},
			{"number for a string", "POST", "/polls/", fields{"question": 7}, 400, "question"},
			{"null for a string", "POST", "/polls/", fields{"question": nil}, 400, "question"},
			{"missing", "POST", "/polls/", fields{}, 400, "question"},
			{"blank", "POST", "/polls/", fields{"question": " \t "}, 400, "question"},
			{"too long", "POST", "/polls/", fields{"question": long}, 400, "question"},
			{"NUL", "POST", "/polls/", fields{"question": "a\x00b"}, 400, "question"},
			{"line break", "POST", "/polls/", fields{"question": "a\nb"}, 400, "question"},
			{"too large", "POST", "/polls/", fields{"question": strings.Repeat("x", 70_000)}, 413, ""},
			{"choice too long", "POST", path + "choices/", fields{"choice_text": long}, 400, "choice_text"},
			{"choice missing", "POST", path + "choices/", fields{}, 400, "choice_text"},
			{"patched to blank", "PATCH", path, fields{"question": ""}, 400, "question"},
			{"vote with a body", "POST", fmt.Sprintf("%schoices/%d/vote/", path, p.Choices[0].ID), fields{"user": 3}, 400, "user"},
			{"vote for nothing", "POST", path + "choices/999/vote/", nil, 404, ""},
			{"limit", "GET", "/polls/?limit=0", nil, 400, "limit"},
			{"limit", "GET", "/polls/?limit=101", nil, 400, "limit"},
			{"limit", "GET", "/polls/?limit=x", nil, 400, "limit"},
			{"before", "GET", "/polls/?before=x", nil, 400, "before"},
			{"username missing", "POST", "/users/", fields{"password": password}, 400, "username"},
			{"username in capitals", "POST", "/users/", fields{"username": "Loki", "password": password}, 400, "username"},
			{"username with markup", "POST", "/users/", fields{"username": "<b>", "password": password}, 400, "username"},
			{"username of one", "POST", "/users/", fields{"username": "x", "password": password}, 400, "username"},
			{"username too long", "POST", "/users/", fields{"username": long, "password": password}, 400, "username"},
			{"username with NUL", "POST", "/users/", fields{"username": "lo\x00ki", "password": password}, 400, "username"},
			{"username taken", "POST", "/users/", fields{"username": "freya", "password": password}, 409, "username"},
			{"e-mail", "POST", "/users/", fields{"username": "loki", "email": "nowhere", "password": password}, 400, "email"},
			{"password missing", "POST", "/users/", fields{"username": "loki"}, 400, "password"},
			{"password short", "POST", "/users/", fields{"username": "loki", "password": "seven77"}, 400, "password"},
			{"password of digits", "POST", "/users/", fields{"username": "loki", "password": "1234567890"}, 400, "password"},
			{"password is the name", "POST", "/users/", fields{"username": "loki-the-god", "password": "LOKI-the-god"}, 400, "password"},
			{"password common", "POST", "/users/", fields{"username": "loki", "password": "Password123"}, 400, "password"},
			{"password monotonous", "POST", "/users/", fields{"username": "loki", "password": "éééééééé"}, 400, "password"},
			{"password too long", "POST", "/users/", fields{"username": "loki", "password": long}, 400, "password"},
			{"superuser by wish", "POST", "/users/", fields{"username": "loki", "password": password, "is_superuser": true}, 400, "is_superuser"},
			{"login without name", "POST", "/login/", fields{"password": password}, 400, "username"},
			{"login without password", "POST", "/login/", fields{"username": "freya"}, 400, "password"},
			{"login unknown", "POST", "/login/", fields{"username": "nobody", "password": password}, 401, ""},
			{"login wrong", "POST", "/login/", fields{"username": "freya", "password": "wrong-horse"}, 401, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				got := a.api(c.method, c.path, token, c.body)
				got.t = t
				got.fails(c.status, c.field)
			})
		}
		assert.Len(t, a.api("GET", "/polls/", "", nil).list(http.StatusOK), 1, "nothing of this made a poll")
		assert.Empty(t, a.log.String(), "and nothing of it was the server's fault")
	})
}

func TestAPIWantsJSON(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data; boundary=x", ";"} {
			got := a.do("POST", "/login/", `{"username":"x","password":"y"}`, map[string]string{"Content-Type": contentType})
			got.fails(http.StatusUnsupportedMediaType, "")
		}
		got := a.do("POST", "/login/", `{"username":"xx","password":"y"}`, map[string]string{"Content-Type": "Application/JSON; charset=utf-8"})
		got.fails(http.StatusUnauthorized, "")
	})
}

func TestIDsThatAreNotNumbersAre404(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.user("freya"), "?", "a", "b")
		token := a.token("freya")
		for _, id := range []string{"abc", "0", "-1", "+1", "01", "1.0", "1e3", "0x1", "99999999999999999999", "9223372036854775807", "%00", "1%20", "1;DROP%20TABLE%20polls", "%2e%2e", "١", "new%2F"} {
			for _, path := range []string{"/polls/%s/", "/polls/%s/choices/"} {
				a.api("GET", fmt.Sprintf(path, id), "", nil).fails(http.StatusNotFound, "")
			}
			a.api("POST", fmt.Sprintf("/polls/%d/choices/%s/vote/", p.ID, id), token, nil).fails(http.StatusNotFound, "")
			a.api("PUT", fmt.Sprintf("/polls/%s/", id), token, fields{"question": "?"}).fails(http.StatusNotFound, "")
		}
		for _, path := range []string{"/nothing/", "/polls/1/nothing/", "/static/../polls/", "//polls/", "/polls//1/", "/static/none"} {
			got := a.api("GET", path, "", nil)
			assert.Equal(t, http.StatusNotFound, got.Code, path)
		}
	})
}

func TestMethodsAndSlashes(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	for path, allow := range map[string]string{
		"/users/": "POST", "/polls/": "GET, HEAD, POST", "/polls/1/": "DELETE, GET, HEAD, PATCH, PUT",
		"/polls/1/choices/2/vote/": "POST", "/openapi.json": "GET, HEAD", "/logout/": "POST", "/admin/": "GET, HEAD",
	} {
		got := a.api("TRACE", path, "", nil)
		got.fails(http.StatusMethodNotAllowed, "")
		assert.Equal(t, allow, got.Header().Get("Allow"), path)
		got = a.api("OPTIONS", path, "", nil)
		assert.Equal(t, http.StatusNoContent, got.Code)
		assert.Equal(t, allow, got.Header().Get("Allow"), path)
	}
	assert.Equal(t, http.StatusOK, a.api("HEAD", "/polls/", "", nil).Code)

	got := a.api("POST", "/polls?x=1", "", nil)
	assert.Equal(t, http.StatusPermanentRedirect, got.Code)
	assert.Equal(t, "/polls/?x=1", got.Header().Get("Location"))
	assert.Equal(t, http.StatusPermanentRedirect, a.api("GET", "/polls/1/choices", "", nil).Code)
	a.api("GET", "/nowhere", "", nil).fails(http.StatusNotFound, "")
}

func TestListIsPaged(t *testing.T) {
	t.Parallel()
	onBothWith(t, polls.Config{URL: func(_ context.Context, path string) string { return "/t/thor" + path }}, func(t *testing.T, a *app) {
		u := a.user("freya")
		for i := range 5 {
			a.poll(u, fmt.Sprint("Number ", i))
		}
		got := a.api("GET", "/polls/?limit=2", "", nil)
		list := got.list(http.StatusOK)
		require.Len(t, list, 2)
		last := strconv.FormatFloat(list[1]["id"].(float64), 'f', -1, 64)
		assert.Equal(t, `</t/thor/polls/?before=`+last+`&limit=2>; rel="next"`, got.Header().Get("Link"))
		rest := a.api("GET", "/polls/?limit=3&before="+last, "", nil)
		assert.Len(t, rest.list(http.StatusOK), 3)
		assert.Empty(t, rest.Header().Get("Link"))
	})
}

func TestServerFaultsAreNotTold(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		_, err := a.db.ExecContext(t.Context(), `DROP TABLE votes`)
		require.NoError(t, err)
		got := a.api("GET", "/polls/", "", nil)
		got.fails(http.StatusInternalServerError, "")
		assert.NotContains(t, got.Body.String(), "votes")
		assert.Contains(t, a.log.String(), "votes")
		page := a.browser().get("/polls/")
		assert.Equal(t, http.StatusInternalServerError, page.Status)
		assert.NotContains(t, page.Raw, "votes table")
	})
}

func TestPrefersHTML(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"":                                  false,
		"*/*":                               false,
		"application/json":                  false,
		"text/html":                         true,
		"TEXT/HTML":                         true,
		"text/*":                            true,
		browserAccept:                       true,
		"text/html, application/json":       false,
		"text/html;q=0.8, */*;q=0.9":        false,
		"text/html;q=0.9, */*;q=0.8":        true,
		"text/html, */*":                    true,
		"application/json, text/html;q=0.9": false,
		"application/json;q=0.1, text/html": true,
		"text/html;q=0":                     false,
		"text/html;q=2":                     false,
		"text/html;q=x":                     false,
		"image/png":                         false,
		",;q,,":                             false,
	} {
		assert.Equal(t, want, polls.PrefersHTML([]string{accept}), accept)
	}
}
