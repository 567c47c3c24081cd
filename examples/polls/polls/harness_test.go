package polls_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
	_ "modernc.org/sqlite"

	"github.com/tenement-go/tenement/examples/polls/migrations"
	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// cheap hashes a password in no time.
var cheap = polls.PasswordCost{MemoryKiB: 8, Passes: 1, Lanes: 1}

const password = "correct-horse"

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// app is the application over a database of its own.
type app struct {
	t       *testing.T
	db      *sql.DB
	store   *polls.Store
	handler http.Handler
	clock   *clock
	log     *bytes.Buffer
	remote  string // where requests come from, unless it is ""
}

// onBoth runs a test over a fresh SQLite file and over a fresh Postgres database.
func onBoth(t *testing.T, test func(t *testing.T, a *app)) {
	t.Helper()
	onBothWith(t, polls.Config{}, test)
}

func onBothWith(t *testing.T, cfg polls.Config, test func(t *testing.T, a *app), options ...polls.Option) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newApp(t, openSQLite(t), cfg, options...))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newApp(t, openPostgres(t), cfg, options...))
	})
}

func newApp(t *testing.T, db *sql.DB, cfg polls.Config, options ...polls.Option) *app {
	c := &clock{now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	log := &bytes.Buffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: log}, nil))
	store := polls.NewStore(db, append([]polls.Option{polls.WithPasswordCost(cheap), polls.WithClock(c.Now)}, options...)...)
	return &app{t: t, db: db, store: store, handler: polls.Handler(store, cfg), clock: c, log: log}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func openSQLite(t *testing.T) *sql.DB {
	t.Helper()
	file := filepath.ToSlash(filepath.Join(t.TempDir(), "polls.db"))
	db, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	migrate(t, db, goose.DialectSQLite3, "sqlite")
	return db
}

func openPostgres(t *testing.T) *sql.DB {
	t.Helper()
	databaseURL := pgtest.Shared(t).Database(t)
	db, err := sql.Open("pgx", databaseURL)
	require.NoError(t, err)
	db.SetMaxOpenConns(8)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	migrate(t, db, goose.DialectPostgres, "postgres")
	return db
}

func migrate(t *testing.T, db *sql.DB, dialect goose.Dialect, suffix string) {
	t.Helper()
	up(t, db, dialect, suffix, "goose_plans", migrations.Shared())
	up(t, db, dialect, suffix, "goose_db_version", migrations.Auth())
	up(t, db, dialect, suffix, "goose_polls", migrations.Polls())
}

func up(t *testing.T, db *sql.DB, dialect goose.Dialect, suffix, table string, set fs.FS) *goose.Provider {
	t.Helper()
	files, err := migrations.ForDialect(set, suffix)
	require.NoError(t, err)
	provider, err := goose.NewProvider(dialect, db, files, goose.WithTableName(table), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.Up(t.Context())
	require.NoError(t, err)
	return provider
}

// user adds a user with the usual password.
func (a *app) user(name string) polls.User {
	a.t.Helper()
	u, err := a.store.CreateUser(a.t.Context(), polls.NewUser{Username: name, Password: password})
	require.NoError(a.t, err)
	return u
}

func (a *app) superuser(name string) polls.User {
	a.t.Helper()
	u, err := polls.CreateSuperuser(a.t.Context(), a.store, name, password)
	require.NoError(a.t, err)
	return u
}

// poll adds a poll with choices.
func (a *app) poll(creator polls.User, question string, choices ...string) polls.Poll {
	a.t.Helper()
	p, err := a.store.CreatePoll(a.t.Context(), creator, question, choices...)
	require.NoError(a.t, err)
	return p
}

// answer is what came back.
type answer struct {
	*httptest.ResponseRecorder
	t *testing.T
}

func (a *app) do(method, path, body string, header map[string]string) answer {
	a.t.Helper()
	r := httptest.NewRequest(method, "http://polls.test"+path, strings.NewReader(body))
	if a.remote != "" {
		r.RemoteAddr = a.remote
	}
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return answer{w, a.t}
}

// api calls the API as curl would, with a token unless it is "".
func (a *app) api(method, path, token string, body any) answer {
	a.t.Helper()
	header := map[string]string{"Accept": "*/*"}
	text := ""
	if body != nil {
		header["Content-Type"] = "application/json"
		if s, ok := body.(string); ok {
			text = s
		} else {
			data, err := json.Marshal(body)
			require.NoError(a.t, err)
			text = string(data)
		}
	}
	if token != "" {
		header["Authorization"] = "Token " + token
	}
	return a.do(method, path, text, header)
}

type fields = map[string]any

// token logs a user in through the API.
func (a *app) token(name string) string {
	a.t.Helper()
	got := a.api("POST", "/login/", "", fields{"username": name, "password": password})
	return got.object(http.StatusOK)["token"].(string)
}

func (r answer) object(status int) fields {
	r.t.Helper()
	var body fields
	r.decode(status, &body)
	return body
}

func (r answer) list(status int) []fields {
	r.t.Helper()
	var body []fields
	r.decode(status, &body)
	require.NotNil(r.t, body, "an empty list is [], not null")
	return body
}

func (r answer) decode(status int, body any) {
	r.t.Helper()
	require.Equal(r.t, status, r.Code, r.Body.String())
	require.Equal(r.t, "application/json", r.Header().Get("Content-Type"))
	require.NoError(r.t, json.Unmarshal(r.Body.Bytes(), body), r.Body.String())
}

// fails requires the API's error with that status, about that field ("" for none).
func (r answer) fails(status int, field string) {
	r.t.Helper()
	e, ok := r.object(status)["error"].(fields)
	require.True(r.t, ok, r.Body.String())
	require.NotEmpty(r.t, e["message"])
	got, _ := e["field"].(string)
	require.Equal(r.t, field, got, r.Body.String())
}

const browserAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

// browser keeps cookies, follows redirects and sends what browsers send.
type browser struct {
	app     *app
	cookies map[string]string
}

func (a *app) browser() *browser { return &browser{app: a, cookies: map[string]string{}} }

func (b *browser) send(method, path string, form url.Values, header map[string]string) answer {
	b.app.t.Helper()
	all := map[string]string{"Accept": browserAccept, "Sec-Fetch-Site": "same-origin"}
	body := ""
	if form != nil {
		all["Content-Type"] = "application/x-www-form-urlencoded"
		all["Origin"] = "http://polls.test"
		body = form.Encode()
	}
	var cookies []string
	for name, value := range b.cookies {
		cookies = append(cookies, name+"="+value)
	}
	if cookies != nil {
		all["Cookie"] = strings.Join(cookies, "; ")
	}
	for name, value := range header {
		all[name] = value
	}
	got := b.app.do(method, path, body, all)
	for _, c := range got.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
	return got
}

// doc is a page that came back.
type doc struct {
	t      *testing.T
	Status int
	Path   string
	Root   *html.Node
	Raw    string
}

// get opens a page, following redirects.
func (b *browser) get(path string) doc { return b.open("GET", path, nil) }

// submit sends a form and follows the redirect after it.
func (b *browser) submit(path string, form url.Values) doc { return b.open("POST", path, form) }

func (b *browser) open(method, path string, form url.Values) doc {
	b.app.t.Helper()
	for range 5 {
		got := b.send(method, path, form, nil)
		if got.Code/100 != 3 {
			require.Equal(b.app.t, "text/html; charset=utf-8", got.Header().Get("Content-Type"), got.Body.String())
			root, err := html.Parse(bytes.NewReader(got.Body.Bytes()))
			require.NoError(b.app.t, err)
			return doc{b.app.t, got.Code, path, root, got.Body.String()}
		}
		method, path, form = "GET", got.Header().Get("Location"), nil
	}
	require.Fail(b.app.t, "redirected in circles")
	return doc{}
}

func (b *browser) login(name string) {
	b.app.t.Helper()
	page := b.submit("/login/", url.Values{"username": {name}, "password": {password}})
	require.Equal(b.app.t, http.StatusOK, page.Status, page.Raw)
}

// all returns the elements with that tag, and attribute="value" where they are given.
func (d doc) all(tag string, attributes ...string) (found []*html.Node) {
	for n := range d.Root.Descendants() {
		if n.Type != html.ElementNode || n.Data != tag {
			continue
		}
		match := true
		for i := 0; i+1 < len(attributes); i += 2 {
			match = match && attribute(n, attributes[i]) == attributes[i+1]
		}
		if match {
			found = append(found, n)
		}
	}
	return found
}

func (d doc) one(tag string, attributes ...string) *html.Node {
	d.t.Helper()
	found := d.all(tag, attributes...)
	require.Len(d.t, found, 1, fmt.Sprint(tag, attributes, "\n", d.Raw))
	return found[0]
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
