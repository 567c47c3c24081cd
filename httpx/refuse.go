package httpx

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// Outcome is what becomes of a request.
type Outcome uint8

// The outcomes, with what [Refuse] answers.
const (
	// Admitted: the request goes to the handler, inside its tenant.
	Admitted Outcome = iota
	// Public: the request goes to the public handler, without a tenant.
	Public
	// Unknown: it names no tenant, or one that is unknown or deleted. 404.
	Unknown
	// Malformed: what the strategy read (the host only where it goes by hosts) cannot name a tenant, or names another
	// than the one that the context was already in. 400.
	Malformed
	// Inactive: its tenant is not in service. 503 with Retry-After while it is being provisioned (or that has failed),
	// 403 when suspended (see [WithSuspendedCode]).
	Inactive
	// Behind: its tenant's tables are not at the version that the program needs. 503 with Retry-After.
	Behind
	// Unavailable: which tenant it is, or its state, cannot be found out at the moment. 503 with Retry-After.
	Unavailable

	outcomes // their number
)

// String returns the outcome's name in lower case.
func (o Outcome) String() string {
	names := [outcomes]string{"admitted", "public", "unknown", "malformed", "inactive", "behind", "unavailable"}
	if o < outcomes {
		return names[o]
	}
	return "outcome " + strconv.Itoa(int(o))
}

// Decision is what a [Gate] made of a request.
type Decision struct {
	Outcome Outcome
	// Tenant is the tenant named, once it is known: also of a request that is Inactive or Behind. It is shared with
	// other requests: do not change it.
	Tenant *tenancy.Tenant
	// Prefix is what was taken off the path, "/t/thor"; empty unless the tenant was found by [ByPathPrefix].
	Prefix string
	// Code is the status to refuse with; 0 for Admitted and Public.
	Code int
	// RetryAfter is when to try again; 0 when trying again will not help.
	RetryAfter time.Duration
	// Err says why the request was refused. It is for logs: it may name stores and hosts.
	Err error
}

var errNoAnswer = errors.New("the request names no tenant")

// DecisionFrom returns what was decided about the request that ctx belongs to. ok is false when the request did not
// come through a [Gate].
func DecisionFrom(ctx context.Context) (d Decision, ok bool) {
	c := from(ctx)
	if c == nil {
		return Decision{}, false
	}
	return c.decision(), true
}

// refusal is the decision for a tenant that could not be resolved (t is nil) or served. What it does not know, it takes
// for a fault of ours that may pass: never for an unknown tenant.
func (g *Gate) refusal(t *tenancy.Tenant, err error) Decision {
	d := Decision{Tenant: t, Err: err}
	var inactive *tenancy.NotActiveError
	switch {
	case errors.Is(err, tenancy.ErrMalformedHost), errors.Is(err, tenancy.ErrInvalid), errors.Is(err, backend.ErrTenantMismatch):
		d.Outcome, d.Code = Malformed, http.StatusBadRequest
	case errors.Is(err, tenancy.ErrUnknownHost), errors.Is(err, tenancy.ErrNotFound):
		d.Outcome, d.Code = Unknown, http.StatusNotFound
	case errors.Is(err, tenancy.ErrBehind):
		d.Outcome, d.Code, d.RetryAfter = Behind, http.StatusServiceUnavailable, g.retryAfter
	case errors.As(err, &inactive):
		return g.inactive(d, inactive.Status)
	default:
		d.Outcome, d.Code, d.RetryAfter = Unavailable, http.StatusServiceUnavailable, g.retryAfter
	}
	return d
}

// inactive completes the decision for a tenant that is not in service. Its status is what Serve found, which may be
// newer than the tenant.
func (g *Gate) inactive(d Decision, status tenancy.Status) Decision {
	switch status {
	case tenancy.Deleted:
		d.Outcome, d.Code = Unknown, http.StatusNotFound
	case tenancy.Suspended:
		d.Outcome, d.Code = Inactive, g.suspendedCode
	default:
		d.Outcome, d.Code, d.RetryAfter = Inactive, http.StatusServiceUnavailable, g.retryAfter
	}
	return d
}

// refuse answers r, which is as the handler of a refusal is to see it.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, d Decision) {
	if (d.Outcome == Unavailable || d.Outcome == Behind) && r.Context().Err() == nil {
		logger := g.logger
		if logger == nil {
			logger = slog.Default()
		}
		level := slog.LevelError
		if d.Outcome == Behind {
			level = slog.LevelWarn // ordinary while a new version is rolled out
		}
		logger.LogAttrs(r.Context(), level, "tenant cannot be served",
			slog.String("outcome", d.Outcome.String()), slog.String("host", r.Host), slog.Any("error", d.Err))
	}
	// An address that is refused now may be a tenant's in a moment: nothing on the way is to remember the answer.
	w.Header().Set("Cache-Control", "no-store")
	if d.RetryAfter > 0 {
		// Rounded up, so that nobody comes back before the time.
		w.Header().Set("Retry-After", strconv.Itoa(int((d.RetryAfter+time.Second-1)/time.Second)))
	}
	if h := g.refusals[d.Outcome]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	Refuse(w, r)
}

// Refuse writes the default answer to a request that a [Gate] refused: a sentence of plain text or, for a client that
// prefers JSON, problem details (RFC 9457). It names neither tenants nor causes. Called for any other request, it
// answers 404.
func Refuse(w http.ResponseWriter, r *http.Request) {
	d, _ := DecisionFrom(r.Context())
	if d.Code == 0 {
		d = Decision{Outcome: Unknown, Code: http.StatusNotFound}
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if prefersJSON(r.Header.Values("Accept")) {
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(d.Code)
		_ = json.NewEncoder(w).Encode(problem{Title: http.StatusText(d.Code), Status: d.Code, Detail: d.detail()})
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(d.Code)
	_, _ = io.WriteString(w, d.detail()+"\n")
}

type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// detail is what the client is told.
func (d Decision) detail() string {
	switch {
	case d.Outcome == Unknown:
		return "There is nothing at this address."
	case d.Outcome == Malformed:
		return "The request's address is not a proper one."
	case d.Outcome == Inactive && d.RetryAfter > 0:
		return "This site is being set up. Please try again in a moment."
	case d.Outcome == Inactive:
		return "This site is suspended."
	case d.Outcome == Behind:
		return "This site is being updated. Please try again in a moment."
	default:
		return "This site cannot be reached right now. Please try again in a moment."
	}
}

// prefersJSON reports whether an Accept header asks for JSON rather than for text. Text is for everyone who has no
// preference.
func prefersJSON(accept []string) bool {
	var jsonQ, textQ float64
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			kind, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			q := 1.0
			if v, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(v, 64); err != nil {
					continue
				}
			}
			switch {
			case kind == "application/json", strings.HasSuffix(kind, "+json"):
				jsonQ = max(jsonQ, q)
			case kind == "text/plain", kind == "text/html", kind == "text/*":
				textQ = max(textQ, q)
			}
		}
	}
	return jsonQ > textQ
}
