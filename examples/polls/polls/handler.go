package polls

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/examples/polls/client"
	"github.com/tenement-go/tenement/examples/polls/page"
)

// Config says how [Handler] fits into the program around it. The zero value is ready to use.
type Config struct {
	// Site returns whose polls these are, for the head of the pages. Defaults to "Polls".
	Site func(ctx context.Context) SiteInfo
	// URL turns a path of the application, which begins with a slash, into the path that the browser uses. Needed where
	// the application lives under a prefix that is taken away before the handler sees it. Defaults to the path itself.
	URL func(ctx context.Context, path string) string
	// Proxies are those in front that are believed when they say who asks, and whether by TLS. Defaults to none.
	Proxies client.Proxies
	// LoginAttempts is how many times a user's password may be wrong within LoginWindow, from one network or from one
	// browser that the user has logged in with before. Defaults to 10. Ten times as many may come from one network for
	// all users, and for one user from all networks together.
	LoginAttempts int
	// LoginWindow defaults to 5 minutes.
	LoginWindow time.Duration
	// SignUpsPerHour is how many users one network may add in an hour. Defaults to 100.
	SignUpsPerHour int
	// ReadOnly reports whether an error of the database says that nothing may be changed at the moment. Users are told so
	// then. Defaults to never.
	ReadOnly func(err error) bool
	// Logger gets the errors that users are not told. Defaults to [slog.Default].
	Logger *slog.Logger
}

// SiteInfo is what the pages show of whose polls they are.
type SiteInfo struct{ Name string }

const (
	maxBody     = 64 << 10
	pageSize    = 60
	maxPageSize = 100
)

//go:embed openapi.json
var openAPI []byte

// handler is the application's HTTP side.
type handler struct {
	store *Store
	cfg   Config
	pages page.Set
	guard guard
}

// A route is one method and path. Where both api and page are set, the request decides: see wantsPage.
type route struct {
	method, path string
	api, page    http.HandlerFunc
}

func (h *handler) routes() []route {
	return []route{
		{"GET", "/", nil, h.home},

		{"POST", "/users/", h.apiSignUp, nil},
		{"POST", "/login/", h.apiLogin, h.loginSubmit},
		{"GET", "/polls/", h.apiPolls, h.list},
		{"POST", "/polls/", h.apiCreatePoll, nil},
		{"GET", "/polls/{id}/", h.apiPoll, h.show},
		{"PUT", "/polls/{id}/", h.apiPutPoll, nil},
		{"PATCH", "/polls/{id}/", h.apiPatchPoll, nil},
		{"DELETE", "/polls/{id}/", h.apiDeletePoll, nil},
		{"GET", "/polls/{id}/choices/", h.apiChoices, nil},
		{"POST", "/polls/{id}/choices/", h.apiAddChoice, nil},
		{"POST", "/polls/{id}/choices/{choice}/vote/", h.apiVote, nil},
		{"GET", "/openapi.json", h.apiDescription("application/json"), nil},
		{"GET", "/openapi.yaml", h.apiDescription("application/yaml"), nil},

		{"GET", "/login/", nil, h.loginForm},
		{"POST", "/logout/", nil, h.logout},
		{"GET", "/signup/", nil, h.signUpForm},
		{"POST", "/signup/", nil, h.signUpSubmit},
		{"GET", "/polls/new/", nil, h.newPollForm},
		{"POST", "/polls/new/", nil, h.newPollSubmit},
		{"POST", "/polls/{id}/vote/", nil, h.voteSubmit},

		{"GET", "/admin/", nil, h.staff(h.adminPolls)},
		{"GET", "/admin/login/", nil, h.loginForm},
		{"POST", "/admin/login/", nil, h.loginSubmit},
		{"GET", "/admin/polls/new/", nil, h.staff(h.adminNewPollForm)},
		{"POST", "/admin/polls/new/", nil, h.staff(h.adminNewPollSubmit)},
		{"GET", "/admin/polls/{id}/", nil, h.staff(h.adminPollForm)},
		{"POST", "/admin/polls/{id}/", nil, h.staff(h.adminPollSubmit)},
		{"POST", "/admin/polls/{id}/delete/", nil, h.staff(h.adminPollDelete)},
		{"GET", "/admin/users/", nil, h.superuser(h.adminUsers)},
		{"GET", "/admin/users/new/", nil, h.superuser(h.adminNewUserForm)},
		{"POST", "/admin/users/new/", nil, h.superuser(h.adminNewUserSubmit)},
		{"GET", "/admin/users/{id}/", nil, h.superuser(h.adminUserForm)},
		{"POST", "/admin/users/{id}/roles/", nil, h.superuser(h.adminUserRoles)},
		{"POST", "/admin/users/{id}/password/", nil, h.superuser(h.adminUserPassword)},
		{"GET", "/admin/plans/", nil, h.staff(h.adminPlans)},
	}
}

// Handler returns the application: the JSON API, its description at /openapi.json, the web pages and the admin. It needs
// nothing around it, and it is safe for concurrent use.
//
// Pages are for sessions (a cookie), the API is for tokens (a header), and neither accepts the other's: so a page of
// somebody else's cannot make a browser use the API, and [http.CrossOriginProtection] keeps it from sending forms.
func Handler(store *Store, cfg Config) http.Handler {
	if cfg.Site == nil {
		cfg.Site = func(context.Context) SiteInfo { return SiteInfo{Name: "Polls"} }
	}
	if cfg.URL == nil {
		cfg.URL = func(_ context.Context, path string) string { return path }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	templates, err := fs.Sub(templateFiles, "templates")
	if err != nil {
		panic(err) // The directory is a constant that the compiler has embedded.
	}
	h := &handler{
		store: store,
		cfg:   cfg,
		pages: page.Parse(templates, "."),
		guard: newGuard(cfg, store),
	}

	mux := http.NewServeMux()
	byPath := map[string]methods{}
	for _, rt := range h.routes() {
		if byPath[rt.path] == nil {
			byPath[rt.path] = methods{}
		}
		byPath[rt.path][rt.method] = rt
	}
	// The mux would answer other methods in plain text: so it is told paths only, and each path knows its methods.
	for path, known := range byPath {
		mux.HandleFunc(path+exact(path), h.dispatch(known))
	}
	mux.Handle("/static/", page.Static())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, ErrNotFound) })

	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &problem{Status: http.StatusForbidden, Message: "This request came from another site's page. Open the page here and try again."})
	}))
	return page.Protect(csrf.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept, Authorization, Cookie")
		// The mux would redirect to a clean path, and to one with a slash at its end, but knows nothing of prefixes.
		if !clean(r.URL.Path) {
			h.fail(w, r, ErrNotFound)
			return
		}
		if _, pattern := mux.Handler(r); strings.HasSuffix(pattern, "/{$}") && !strings.HasSuffix(r.URL.Path, "/") {
			target := h.cfg.URL(r.Context(), r.URL.EscapedPath()+"/")
			if r.URL.RawQuery != "" {
				target += "?" + r.URL.RawQuery
			}
			http.Redirect(w, r, target, http.StatusPermanentRedirect)
			return
		}
		mux.ServeHTTP(w, r)
	})))
}

// exact makes a pattern that ends with a slash match that path only, and not all below.
func exact(path string) string {
	if strings.HasSuffix(path, "/") {
		return "{$}"
	}
	return ""
}

func clean(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.Contains(path, "//") &&
		!strings.Contains(path+"/", "/./") && !strings.Contains(path+"/", "/../")
}

func (rt route) serve(w http.ResponseWriter, r *http.Request) {
	serve := rt.api
	if rt.api == nil || (rt.page != nil && wantsPage(r)) {
		serve = rt.page
		r = r.WithContext(context.WithValue(r.Context(), pageKey{}, true))
	} else {
		r = r.WithContext(context.WithValue(r.Context(), pageKey{}, false))
	}
	serve(w, r)
}

// methods are the routes of one path.
type methods map[string]route

// dispatch serves a path by the request's method.
func (h *handler) dispatch(known methods) http.HandlerFunc {
	names := slices.Collect(maps.Keys(known))
	if _, ok := known[http.MethodGet]; ok {
		names = append(names, http.MethodHead)
	}
	slices.Sort(names)
	allow := strings.Join(names, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		if rt, ok := known[method]; ok {
			rt.serve(w, r)
			return
		}
		w.Header().Set("Allow", allow)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.fail(w, r, &problem{Status: http.StatusMethodNotAllowed, Message: "This path knows " + allow + " only."})
	}
}

// pageKey is where the context says whether a page or the API answers.
type pageKey struct{}

// wantsPage tells whether a request is a browser's: one that likes HTML better than JSON and does not send JSON. Where
// neither is preferred, JSON it is.
func wantsPage(r *http.Request) bool {
	if chosen, ok := r.Context().Value(pageKey{}).(bool); ok {
		return chosen
	}
	return prefersHTML(r.Header.Values("Accept")) && !isJSON(r.Header.Get("Content-Type"))
}

// prefersHTML compares the qualities of text/html and application/json in an Accept header. The most specific range counts
// for each, and of two equal qualities the one that was named wins over the one that a wildcard covers.
func prefersHTML(accept []string) bool {
	type match struct {
		quality   float64
		precision int // 0: not covered, 1: */*, 2: type/*, 3: named
	}
	var html, json match
	for _, field := range strings.Split(strings.Join(accept, ","), ",") {
		parts := strings.Split(field, ";")
		quality := 1.0
		for _, parameter := range parts[1:] {
			if name, value, ok := strings.Cut(strings.TrimSpace(parameter), "="); ok && strings.EqualFold(name, "q") {
				q, err := strconv.ParseFloat(value, 64)
				if err != nil || !(q >= 0 && q <= 1) {
					q = 0
				}
				quality = q
			}
		}
		consider := func(m *match, precision int) {
			if precision > m.precision {
				*m = match{quality, precision}
			}
		}
		switch strings.ToLower(strings.TrimSpace(parts[0])) {
		case "text/html":
			consider(&html, 3)
		case "text/*":
			consider(&html, 2)
		case "application/json":
			consider(&json, 3)
		case "application/*":
			consider(&json, 2)
		case "*/*":
			consider(&html, 1)
			consider(&json, 1)
		}
	}
	if html.quality == json.quality {
		return html.quality > 0 && html.precision > json.precision
	}
	return html.quality > json.quality
}

// A problem is an error as it is shown to whoever made the request.
type problem struct {
	Status     int
	Message    string
	Field      string        // the field it is about, if it is about one
	RetryAfter time.Duration // 0: trying again does not help
}

func (p *problem) Error() string { return p.Message }

// explain turns an error into what a user may see of it. Anything unknown is the server's fault, and its text stays here.
func explain(err error) *problem {
	var p *problem
	var invalid Invalid
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return &problem{Status: http.StatusBadRequest, Message: invalid[0].Message, Field: invalid[0].Field}
	case errors.Is(err, ErrNotFound):
		return &problem{Status: http.StatusNotFound, Message: "There is nothing here."}
	case errors.Is(err, ErrCredentials):
		return &problem{Status: http.StatusUnauthorized, Message: "Wrong username or password."}
	case errors.Is(err, ErrUsernameTaken):
		return &problem{Status: http.StatusConflict, Message: "That username is taken.", Field: "username"}
	case errors.Is(err, ErrAlreadyVoted):
		return &problem{Status: http.StatusConflict, Message: "You have voted on this poll already."}
	case errors.Is(err, ErrTooManyChoices):
		return &problem{Status: http.StatusConflict, Message: "A poll has at most " + strconv.Itoa(MaxChoices) + " choices.", Field: "choice_text"}
	case errors.Is(err, ErrPlanLimit):
		return &problem{Status: http.StatusConflict, Message: "There are as many polls as the plan allows. Delete one, or ask for a larger plan.", Field: "question"}
	case errors.Is(err, ErrLastSuperuser):
		return &problem{Status: http.StatusConflict, Message: "One superuser must be left. Make somebody else one first."}
	case errors.Is(err, errReadOnly):
		return &problem{Status: http.StatusForbidden, Message: "Everything here can be read at the moment, and nothing changed."}
	case errors.Is(err, ErrBusy):
		return &problem{Status: http.StatusServiceUnavailable, Message: "Too many people are signing in at this moment. Try again in a few seconds.", RetryAfter: 5 * time.Second}
	default:
		return &problem{Status: http.StatusInternalServerError, Message: "Something went wrong on our side. Try again later."}
	}
}

// errReadOnly: the database lets nothing be changed at the moment.
var errReadOnly = errors.New("read-only")

// named gives an error of the database the name that it has here.
func (h *handler) named(err error) error {
	if h.cfg.ReadOnly != nil && h.cfg.ReadOnly(err) {
		return fmt.Errorf("%w: %w", errReadOnly, err)
	}
	return err
}

// fail answers with an error, as JSON or as a page.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	err = h.named(err)
	p := explain(err)
	if p.Status == http.StatusInternalServerError && r.Context().Err() == nil {
		h.cfg.Logger.ErrorContext(r.Context(), "polls: request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	p.setHeaders(w)
	if wantsPage(r) {
		h.failPage(w, r, p)
		return
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Token")
	}
	writeJSON(w, p.Status, errorBody{Error: errorDetail{Message: p.Message, Field: p.Field}})
}

func (p *problem) setHeaders(w http.ResponseWriter) {
	if p.RetryAfter > 0 {
		seconds := int64((p.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
}

// pathID reads an ID out of the path. Only the way in which IDs are written finds something: "007" and "+7" do not.
func pathID(r *http.Request, name string) (int64, error) {
	text := r.PathValue(name)
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 || strconv.FormatInt(id, 10) != text {
		return 0, ErrNotFound
	}
	return id, nil
}
