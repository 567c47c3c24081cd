// Package tenancytest gives each test of an application a tenant of its own, in milliseconds, on either backend:
//
//	func TestVote(t *testing.T) {
//		tt := tenancytest.New(t, polls.Config())
//		thor := tt.Tenant(t)
//		res, err := thor.Client(polls.Handler(tt.App)).Get(thor.URL("/polls/1"))
//		…
//	}
//
// Tests run on SQLite in a temporary directory unless TENEMENT_TEST_POSTGRES names a Postgres server (the URL of a
// superuser, who makes a database for the purpose and drops it afterwards), or [WithURL] or [WithBackend] say otherwise.
// Opening the stores costs more than a tenant in them: tests that can share them do so by [Open] in TestMain.
package tenancytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/tenancy"
)

// Tenants is an App that makes tenants for tests. It is safe for concurrent use.
type Tenants struct {
	*tenancy.App
	// purge: the stores outlive the tests, so each tenant is removed at the end of its test.
	purge bool
}

// Option says where the tests' stores are.
type Option func(*options)

type options struct {
	url string
	be  backend.Backend
}

// WithURL opens the stores of that URL. What is there stays; tenants are purged at the ends of their tests.
func WithURL(url string) Option { return func(o *options) { o.url = url } }

// WithBackend uses a backend that the caller closes, after the tests. Tenants are purged at the ends of their tests.
func WithBackend(be backend.Backend) Option { return func(o *options) { o.be = be } }

// New opens an App for one test and its subtests, and closes it when the test ends.
func New(tb testing.TB, cfg tenancy.Config, opts ...Option) *Tenants {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	defer cancel()
	tt, closeAll, err := Open(ctx, cfg, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := closeAll(); err != nil {
			tb.Error(err)
		}
	})
	return tt
}

// Open is [New] for TestMain. The caller calls closeAll, which closes the App and removes what was made for the tests.
func Open(ctx context.Context, cfg tenancy.Config, opts ...Option) (tt *Tenants, closeAll func() error, err error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	var undo []func() error
	closeAll = func() error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	tt = &Tenants{purge: o.be != nil || o.url != ""}
	be := o.be
	if be == nil {
		url := o.url
		if url == "" {
			var remove func() error
			if url, remove, err = place(ctx); err != nil {
				return nil, nil, err
			}
			undo = append(undo, remove)
		}
		if be, err = backend.Open(ctx, url); err != nil {
			return nil, nil, err
		}
		undo = append(undo, be.Close)
	}
	if tt.App, err = tenancy.Open(ctx, be, cfg); err != nil {
		return nil, nil, err
	}
	undo = append(undo, tt.Close)
	return tt, closeAll, nil
}

// place makes somewhere for stores to be, and says how to get rid of it.
func place(ctx context.Context) (url string, remove func() error, err error) {
	if admin := os.Getenv(pgtest.EnvURL); admin != "" {
		cluster, err := pgtest.Attach(ctx, admin)
		if err != nil {
			return "", nil, err
		}
		url, drop, err := cluster.NewDatabase(ctx)
		if err != nil {
			return "", nil, err
		}
		return url, func() error { return drop(context.WithoutCancel(ctx)) }, nil
	}
	dir, err := os.MkdirTemp("", "tenancytest")
	if err != nil {
		return "", nil, err
	}
	// What is lost with the power was only a test.
	return "sqlite:" + dir + "?synchronous=off", func() error { return os.RemoveAll(dir) }, nil
}

// Tenant is a test's own tenant.
type Tenant struct {
	tenancy.Tenant
	tb  testing.TB
	app *tenancy.App
}

// Tenant makes a tenant for a test. It has a slug and a domain that no other has, unless change gives it others. The
// test fails when it cannot be made.
func (tt *Tenants) Tenant(tb testing.TB, change ...func(*tenancy.Spec)) *Tenant {
	tb.Helper()
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	slug := "t" + hex.EncodeToString(random[:])
	spec := tenancy.Spec{Slug: slug, Name: tb.Name(), Domains: []string{slug + ".test"}}
	if len(spec.Name) > 100 {
		spec.Name = slug
	}
	for _, f := range change {
		f(&spec)
	}
	made, err := tt.Create(tb.Context(), spec)
	if err != nil {
		tb.Fatal(err)
	}
	if tt.purge {
		tb.Cleanup(func() {
			ctx := context.WithoutCancel(tb.Context())
			// The test may have done away with it itself.
			_, err := tt.Delete(ctx, made.ID)
			if err == nil {
				err = tt.Purge(ctx, made.ID)
			}
			if err != nil && !errors.Is(err, tenancy.ErrNotFound) {
				tb.Errorf("tenancytest: remove the test's tenant: %v", err)
			}
		})
	}
	return &Tenant{Tenant: made, tb: tb, app: tt.App}
}

// Context returns the test's context, in the tenant.
func (t *Tenant) Context() context.Context { return t.Enter(t.tb.Context()) }

// Enter returns ctx in the tenant. The test fails when ctx is in another.
func (t *Tenant) Enter(ctx context.Context) context.Context {
	t.tb.Helper()
	ctx, _, leave, err := t.app.Enter(ctx, &t.Tenant, tenancy.Policy{KeepGoing: true})
	if err != nil {
		t.tb.Fatal(err)
	}
	t.tb.Cleanup(leave)
	return ctx
}

// host is where requests to the tenant go.
func (t *Tenant) host() string {
	t.tb.Helper()
	host := t.PrimaryDomain()
	if host == "" {
		t.tb.Fatal("tenancytest: the tenant has no domain to send requests to; give it one in its Spec")
	}
	return host
}

// URL returns the URL of a path of the tenant's, at its primary domain.
func (t *Tenant) URL(path string) string {
	t.tb.Helper()
	return "http://" + t.host() + "/" + strings.TrimPrefix(path, "/")
}

// Request returns a request as a server gets it from outside: it names the tenant's domain, and its context is in no
// tenant; the middleware is to see to that. To test a handler without the middleware, give it
// r.WithContext(t.Context()).
func (t *Tenant) Request(method, path string, body io.Reader) *http.Request {
	t.tb.Helper()
	return httptest.NewRequestWithContext(t.tb.Context(), method, t.URL(path), body)
}

// Client returns a client whose requests go straight to h, without a network, and which keeps cookies. Responses are
// complete before they are returned. A panic of h reaches the test.
func (t *Tenant) Client(h http.Handler) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.tb.Fatal(err)
	}
	return &http.Client{Transport: direct{h}, Jar: jar}
}

// direct is a transport that calls a handler.
type direct struct{ h http.Handler }

// RoundTrip implements [http.RoundTripper].
func (d direct) RoundTrip(out *http.Request) (*http.Response, error) {
	var body []byte
	if out.Body != nil {
		defer out.Body.Close()
		var err error
		if body, err = io.ReadAll(out.Body); err != nil {
			return nil, fmt.Errorf("tenancytest: read the request's body: %w", err)
		}
	}
	in := httptest.NewRequestWithContext(out.Context(), out.Method, out.URL.String(), bytes.NewReader(body))
	in.Header = out.Header.Clone()
	if out.Host != "" {
		in.Host = out.Host
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, in)
	res := w.Result()
	res.Request = out
	return res, nil
}
