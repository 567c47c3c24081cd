package polls

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tenement-go/tenement/examples/polls/limit"
)

// guard bounds how often passwords may be tried and users added.
//
// Who does not know a password must be slowed down, and must not be able to lock out who does. So attempts count for the
// user and the network that they come from: a stranger elsewhere uses up nobody's but their own. Who has many networks is
// bounded by what all strangers together may try; and since that is what a stranger could use up on purpose, a browser in
// which the user has logged in before (see [Device]) does not depend on it: its attempts count for itself.
type guard struct {
	key     func(ctx context.Context, parts ...string) string
	few     *limit.Limiter // one user from one network, or one browser
	many    *limit.Limiter // a network for all users, and a user for all networks
	signUps *limit.Limiter
}

func newGuard(cfg Config, store *Store) guard {
	few := cfg.LoginAttempts
	if few <= 0 {
		few = 10
	}
	added := cfg.SignUpsPerHour
	if added <= 0 {
		added = 100
	}
	return guard{
		key:     store.key,
		few:     limit.New(limit.Config{Attempts: few, Window: cfg.LoginWindow, Now: store.now}),
		many:    limit.New(limit.Config{Attempts: 10 * few, Window: cfg.LoginWindow, Now: store.now}),
		signUps: limit.New(limit.Config{Attempts: added, Window: time.Hour, Now: store.now}),
	}
}

// count is one counter that an attempt is counted in.
type count struct {
	in   *limit.Limiter
	key  string
	mine bool // nobody else's attempts are in it
}

// attempt counts an attempt to log in. The caller says with done how it ended.
func (g *guard) attempt(ctx context.Context, username, network, device string) (done func(error), err error) {
	counts := []count{
		{g.few, g.key(ctx, "login", username, network), true},
		{g.many, g.key(ctx, "login from", network), false},
		{g.many, g.key(ctx, "login to", username), false},
	}
	if device != "" {
		counts = []count{{g.few, g.key(ctx, "login with", hashSecret(device)), true}}
	}
	for _, c := range counts {
		if wait := c.in.Take(c.key); wait > 0 {
			return nil, &problem{
				Status:     http.StatusTooManyRequests,
				Message:    "Too many attempts. Try again later.",
				RetryAfter: wait,
			}
		}
	}
	return func(err error) {
		for _, c := range counts {
			switch {
			case err == nil && c.mine:
				c.in.Forget(c.key)
			case !errors.Is(err, ErrCredentials): // It was right, or nobody has looked.
				c.in.Return(c.key)
			}
		}
	}, nil
}

// authenticate checks a username and a password, both of a page and of the API.
func (h *handler) authenticate(r *http.Request, username, password string) (User, error) {
	ctx := r.Context()
	if CheckUsername(username) != "" {
		return User{}, ErrCredentials // Nobody has such a name, so there is nothing to count.
	}
	device, err := h.device(r, username)
	if err != nil {
		return User{}, err
	}
	done, err := h.guard.attempt(ctx, username, h.cfg.Proxies.Network(r), device)
	if err != nil {
		return User{}, err
	}
	u, err := h.store.Authenticate(ctx, username, password)
	done(err)
	return u, err
}

// signUp adds a user, both for a page and for the API.
func (h *handler) signUp(r *http.Request, n NewUser) (User, error) {
	key := h.guard.key(r.Context(), "sign up", h.cfg.Proxies.Network(r))
	if wait := h.guard.signUps.Take(key); wait > 0 {
		return User{}, &problem{
			Status:     http.StatusTooManyRequests,
			Message:    "Too many new users from your network. Try again later.",
			RetryAfter: wait,
		}
	}
	u, err := h.store.CreateUser(r.Context(), n)
	if invalid := Invalid(nil); errors.As(err, &invalid) {
		h.guard.signUps.Return(key) // Who mistypes is not the one to be slowed down.
	}
	return u, err
}
