package frameworks

import (
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"

	"github.com/tenement-go/tenement/httpx"
)

var byPath = httpx.WithStrategy(httpx.ByPathPrefix("/t/"))

// S46 under each router: around it, and among its own middleware.

func TestServeMux(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	polls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rep := look(app.DB(), r)
		rep.ID = r.PathValue("id")
		writeJSON(w, rep)
	})
	mux := func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /polls/{id}", h)
		return mux
	}
	site{handler: withRoute(httpx.Middleware(app)(mux(polls)))}.check(t)
	site{handler: withRoute(mux(httpx.Middleware(app)(polls)))}.check(t)
	site{handler: httpx.Middleware(app, byPath)(mux(withRoute(polls))), prefix: true}.check(t)
}

func TestChi(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	polls := func(w http.ResponseWriter, r *http.Request) {
		rep := look(app.DB(), r)
		rep.ID = chi.URLParam(r, "id")
		writeJSON(w, rep)
	}
	router := func(use ...func(http.Handler) http.Handler) chi.Router {
		router := chi.NewRouter()
		router.Use(use...)
		router.Get("/polls/{id}", polls)
		return router
	}
	site{handler: httpx.Middleware(app)(router(withRoute))}.check(t)
	site{handler: router(withRoute, httpx.Middleware(app))}.check(t)
	site{handler: httpx.Middleware(app, byPath)(router(withRoute)), prefix: true}.check(t)
	// chi routes after its middleware, so the prefix may be taken off there too.
	site{handler: router(withRoute, httpx.Middleware(app, byPath)), prefix: true}.check(t)

	// For some routes only: after routing.
	outer := chi.NewRouter()
	outer.With(withRoute, httpx.Middleware(app)).Get("/polls/{id}", polls)
	site{handler: outer}.check(t)
}

func TestEcho(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	router := func(use ...echo.MiddlewareFunc) *echo.Echo {
		router := echo.New()
		router.Use(use...)
		router.GET("/polls/:id", func(c echo.Context) error {
			rep := look(app.DB(), c.Request())
			rep.ID = c.Param("id")
			return c.JSON(http.StatusOK, rep)
		})
		return router
	}
	own := echo.WrapMiddleware(withRoute)
	site{handler: httpx.Middleware(app)(router(own))}.check(t)
	site{handler: router(own, echo.WrapMiddleware(httpx.Middleware(app)))}.check(t)
	// Echo routes by the request that it was given: what takes a prefix off goes around it.
	site{handler: httpx.Middleware(app, byPath)(router(own)), prefix: true}.check(t)
}

// ginMiddleware is how a standard middleware is mounted in Gin's chain.
func ginMiddleware(mw func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		passed := false
		mw(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			passed = true
			c.Request = r
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}

func TestGin(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	router := func(use ...gin.HandlerFunc) *gin.Engine {
		router := gin.New()
		router.Use(use...)
		router.GET("/polls/:id", func(c *gin.Context) {
			rep := look(app.DB(), c.Request)
			rep.ID = c.Param("id")
			c.JSON(http.StatusOK, rep)
		})
		return router
	}
	own := ginMiddleware(withRoute)
	site{handler: httpx.Middleware(app)(router(own))}.check(t)
	site{handler: router(own, ginMiddleware(httpx.Middleware(app)))}.check(t)
	// Gin routes before its middleware: what takes a prefix off goes around it.
	site{handler: httpx.Middleware(app, byPath)(router(own)), prefix: true}.check(t)
}

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}
