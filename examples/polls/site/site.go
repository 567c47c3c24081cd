// Package site is the public site of the polls: what this is, who has polls here, what it costs, and a form with which
// anybody gets polls of their own. What a customer is made of is not its business: it is handed two functions, one that
// lists them and one that makes one.
package site

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/examples/polls/client"
	"github.com/tenement-go/tenement/examples/polls/limit"
	"github.com/tenement-go/tenement/examples/polls/page"
	"github.com/tenement-go/tenement/examples/polls/polls"
)

//go:embed templates/*.html
var templateFiles embed.FS

// A Tenant is one who has polls here, as the site shows it.
type Tenant struct {
	Slug string
	Name string
	URL  string // where its polls are
}

// Signup is what somebody entered who wants polls of their own. It has been checked: the slug is 2 to 40 lower-case letters,
// digits and hyphens, the username and the password are ones that the polls accept, the plan is empty or one of the plans.
type Signup struct {
	Slug     string
	Name     string
	Username string // of the superuser
	Password string
	Plan     string // the ID of a plan
}

// Config is what the site needs to know.
type Config struct {
	// Name of the whole. Defaults to "Polls".
	Name string
	// Address is what follows the slug in the address of a tenant, for the form: ".polls.localhost:8000".
	Address string
	// List returns the tenants to be shown. Required.
	List func(ctx context.Context) ([]Tenant, error)
	// Create makes a tenant and returns the URL to send its maker to. A slug that cannot be had is a [polls.Invalid] with
	// the field "slug", and so on: it is shown at the field. Required.
	Create func(ctx context.Context, s Signup) (url string, err error)
	// Plans returns the plans on offer: the method of a [polls.Store] over the shared database. Without it none are shown.
	Plans func(ctx context.Context) ([]polls.Plan, error)
	// FormTargets are the origins that Create's URLs are on, as Content-Security-Policy writes them
	// ("http://*.polls.localhost:8000"): browsers hold the redirect after a form against that list. Defaults to all of http and https.
	FormTargets []string
	// SignupsPerHour is how many tenants one network may make in an hour: an IPv4 address, or the 64 bits of an IPv6
	// address that name a network. Defaults to 20.
	SignupsPerHour int
	// Proxies are those in front that are believed when they say who asks. Defaults to none.
	Proxies client.Proxies
	// Logger gets the errors that users are not told. Defaults to [slog.Default].
	Logger *slog.Logger
}

const (
	maxBody = 64 << 10
	maxName = 60
)

type handler struct {
	cfg     Config
	pages   page.Set
	signups *limit.Limiter
}

// view is what every page is rendered with.
type view struct {
	page.Frame
	Form  page.Form
	Error *problem

	Tenants []Tenant
	Plans   []polls.Plan
	Address string
}

// problem is an error as visitors see it.
type problem struct {
	Status  int
	Message string
}

// Handler returns the public site: "/", "/signup/" and what they need. It is safe for concurrent use. It panics when List
// or Create is missing.
func Handler(cfg Config) http.Handler {
	if cfg.List == nil || cfg.Create == nil {
		panic("site: Config needs List and Create")
	}
	if cfg.Name == "" {
		cfg.Name = "Polls"
	}
	if cfg.Plans == nil {
		cfg.Plans = func(context.Context) ([]polls.Plan, error) { return nil, nil }
	}
	if cfg.FormTargets == nil {
		cfg.FormTargets = []string{"http:", "https:"}
	}
	if cfg.SignupsPerHour <= 0 {
		cfg.SignupsPerHour = 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	templates, err := fs.Sub(templateFiles, "templates")
	if err != nil {
		panic(err) // The directory is a constant that the compiler has embedded.
	}
	h := &handler{
		cfg:     cfg,
		pages:   page.Parse(templates, "."),
		signups: limit.New(limit.Config{Attempts: cfg.SignupsPerHour, Window: time.Hour}),
	}

	mux := http.NewServeMux()
	mux.Handle("/{$}", only(h, map[string]http.HandlerFunc{"GET": h.home}))
	mux.Handle("/signup/{$}", only(h, map[string]http.HandlerFunc{"GET": h.form, "POST": h.submit}))
	mux.Handle("/static/", page.Static())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &problem{http.StatusNotFound, "There is nothing here."}, nil)
	})
	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &problem{http.StatusForbidden, "This form came from another site's page. Open the page here and try again."}, nil)
	}))
	return page.Protect(csrf.Handler(mux), cfg.FormTargets...)
}

// only serves a path by method.
func only(h *handler, known map[string]http.HandlerFunc) http.Handler {
	allow := "GET, HEAD"
	if known[http.MethodPost] != nil {
		allow += ", POST"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		if serve := known[method]; serve != nil {
			serve(w, r)
			return
		}
		w.Header().Set("Allow", allow)
		h.fail(w, r, &problem{http.StatusMethodNotAllowed, "This page knows " + allow + " only."}, nil)
	})
}

func (h *handler) view(title string) view {
	return view{
		Frame:   page.Frame{Title: title, Site: h.cfg.Name, Link: func(path string) string { return path }},
		Address: h.cfg.Address,
	}
}

func (h *handler) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	if err := h.pages.Render(w, status, name, v); err != nil {
		h.cfg.Logger.ErrorContext(r.Context(), "site: page cannot be rendered", "page", name, "error", err)
		http.Error(w, "Something went wrong on our side.", http.StatusInternalServerError)
	}
}

// fail shows an error page. The cause, if there is one, is for the log.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, p *problem, cause error) {
	if cause != nil && r.Context().Err() == nil {
		h.cfg.Logger.ErrorContext(r.Context(), "site: request failed", "method", r.Method, "path", r.URL.Path, "error", cause)
	}
	v := h.view(http.StatusText(p.Status))
	v.Error = p
	h.render(w, r, p.Status, "error", v)
}

func (h *handler) broken(w http.ResponseWriter, r *http.Request, cause error) {
	h.fail(w, r, &problem{http.StatusInternalServerError, "Something went wrong on our side. Try again later."}, cause)
}

func (h *handler) home(w http.ResponseWriter, r *http.Request) {
	tenants, err := h.cfg.List(r.Context())
	if err != nil {
		h.broken(w, r, fmt.Errorf("site: list tenants: %w", err))
		return
	}
	v := h.view("Ask anyone anything")
	v.Tenants = tenants
	if v.Plans, err = h.cfg.Plans(r.Context()); err != nil {
		h.broken(w, r, err)
		return
	}
	h.render(w, r, http.StatusOK, "home", v)
}

func (h *handler) form(w http.ResponseWriter, r *http.Request) {
	plans, err := h.cfg.Plans(r.Context())
	if err != nil {
		h.broken(w, r, err)
		return
	}
	v := h.view("Get your own polls")
	v.Plans = plans
	v.Form.Values = map[string]string{"plan": r.URL.Query().Get("plan")}
	if len(plans) > 0 && v.Form.Values["plan"] == "" {
		v.Form.Values["plan"] = plans[0].ID
	}
	h.render(w, r, http.StatusOK, "signup", v)
}

func (h *handler) submit(w http.ResponseWriter, r *http.Request) {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		h.fail(w, r, &problem{http.StatusUnsupportedMediaType, "Send a form, with Content-Type: application/x-www-form-urlencoded."}, nil)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		p := &problem{http.StatusBadRequest, "The form could not be read."}
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			p = &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("The form is larger than %d bytes.", tooLarge.Limit)}
		}
		h.fail(w, r, p, nil)
		return
	}
	plans, err := h.cfg.Plans(r.Context())
	if err != nil {
		h.broken(w, r, err)
		return
	}
	s := Signup{
		Slug: strings.TrimSpace(r.PostForm.Get("slug")), Name: strings.TrimSpace(r.PostForm.Get("name")),
		Username: r.PostForm.Get("username"), Password: r.PostForm.Get("password"), Plan: r.PostForm.Get("plan"),
	}
	v := h.view("Get your own polls")
	v.Plans = plans
	v.Form = page.Form{
		Values: map[string]string{"slug": s.Slug, "name": s.Name, "username": s.Username, "plan": s.Plan},
		Errors: s.wrong(plans),
	}
	if len(v.Form.Errors) > 0 {
		h.render(w, r, http.StatusUnprocessableEntity, "signup", v)
		return
	}
	// Only what would make a tenant counts: who mistypes is not the one to be slowed down.
	if wait := h.signups.Take(h.cfg.Proxies.Network(r)); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		v.Form.Problem = "Too many sign-ups from your network. Try again later."
		h.render(w, r, http.StatusTooManyRequests, "signup", v)
		return
	}
	target, err := h.cfg.Create(r.Context(), s)
	var invalid polls.Invalid
	switch {
	case err == nil:
		http.Redirect(w, r, target, http.StatusSeeOther)
	case errors.As(err, &invalid):
		for _, f := range invalid {
			v.Form.Errors[f.Field] = f.Message
		}
		h.render(w, r, http.StatusUnprocessableEntity, "signup", v)
	default:
		h.broken(w, r, fmt.Errorf("site: create %s: %w", s.Slug, err))
	}
}

var slugRule = regexp.MustCompile(`^[a-z][a-z0-9-]*[a-z0-9]$`)

// wrong returns what is wrong with a sign-up, by field. Whether the slug can be had is known only to Create.
func (s Signup) wrong(plans []polls.Plan) map[string]string {
	wrong := map[string]string{}
	switch {
	case s.Slug == "":
		wrong["slug"] = "Choose an address."
	case len(s.Slug) < 2 || len(s.Slug) > 40:
		wrong["slug"] = "An address has 2 to 40 characters."
	case !slugRule.MatchString(s.Slug) || strings.Contains(s.Slug, "--"):
		wrong["slug"] = "Use lower-case letters, digits and single hyphens, and begin with a letter."
	}
	if message := polls.CheckText(s.Name, "a name", maxName); message != "" {
		wrong["name"] = message
	}
	if message := polls.CheckUsername(s.Username); message != "" {
		wrong["username"] = message
	}
	if message := polls.CheckPassword(s.Username, s.Password); message != "" {
		wrong["password"] = message
	}
	known := s.Plan == ""
	for _, p := range plans {
		known = known || p.ID == s.Plan
	}
	if !known {
		wrong["plan"] = "Choose one of the plans."
	}
	return wrong
}
