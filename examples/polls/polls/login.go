package polls

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The names of the cookies, before [handler.cookieName].
const (
	sessionCookie = "polls_session"
	deviceCookie  = "polls_device"
)

// cookieName puts the strongest prefix before the name that the request allows. What a browser keeps under "__Host-" has
// come by TLS from this very host: neither a page of a host beside or below it nor somebody on the wire can have planted
// it. Browsers refuse the prefix without TLS, as on localhost, and on a path of its own.
func (h *handler) cookieName(r *http.Request, name string) string {
	switch {
	case !h.cfg.Proxies.Secure(r):
		return name
	case h.cfg.URL(r.Context(), "/") == "/":
		return "__Host-" + name
	default:
		return "__Secure-" + name
	}
}

// setCookie has no Domain: the cookie goes back to this very host only, not to the ones below it.
func (h *handler) setCookie(w http.ResponseWriter, r *http.Request, name, value string, expires time.Time) {
	c := &http.Cookie{
		Name: h.cookieName(r, name), Value: value, Expires: expires, Path: h.cfg.URL(r.Context(), "/"),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: h.cfg.Proxies.Secure(r),
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// cookieUser returns the secret in a cookie and the user whom it stands for, nil when there is none or it has expired.
func (h *handler) cookieUser(r *http.Request, name string, kind SignIn) (secret string, u *User, err error) {
	cookie, err := r.Cookie(h.cookieName(r, name))
	if err != nil {
		return "", nil, nil
	}
	found, err := h.store.SignedIn(r.Context(), kind, cookie.Value)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil, nil
	case err != nil:
		return "", nil, err
	}
	return cookie.Value, &found, nil
}

// viewer returns who is logged in, or nil.
func (h *handler) viewer(r *http.Request) (*User, error) {
	_, u, err := h.cookieUser(r, sessionCookie, Session)
	return u, err
}

// device returns the secret of a browser in which the user of that name has logged in before, or "".
func (h *handler) device(r *http.Request, username string) (string, error) {
	secret, u, err := h.cookieUser(r, deviceCookie, Device)
	if u == nil || u.Username != username {
		return "", err
	}
	return secret, nil
}

// logIn gives the browser a session. It is always a new one: a session from before the log-in is worth nothing. From now
// on the browser is known, too.
func (h *handler) logIn(w http.ResponseWriter, r *http.Request, u User) error {
	secret, expires, err := h.store.CreateSignIn(r.Context(), Session, u.ID)
	if err != nil {
		return err
	}
	known, err := h.device(r, u.Username)
	if err == nil && known == "" {
		var until time.Time
		if known, until, err = h.store.CreateSignIn(r.Context(), Device, u.ID); err == nil {
			h.setCookie(w, r, deviceCookie, known, until)
		}
	}
	if err != nil {
		return err
	}
	h.setCookie(w, r, sessionCookie, secret, expires)
	return nil
}

// toLogin sends somebody to log in and come back.
func (h *handler) toLogin(w http.ResponseWriter, r *http.Request, login, back string) {
	http.Redirect(w, r, h.cfg.URL(r.Context(), login)+"?next="+url.QueryEscape(back), http.StatusSeeOther)
}

// loginPage is the log-in form of the pages or of the admin.
type loginPage struct {
	Admin  bool
	Action string // where the form goes
	Next   string // where to go then
}

func (h *handler) loginView(r *http.Request, next string) view {
	data := loginPage{Action: "/login/", Next: localPath(next, "/polls/")}
	title := "Log in"
	if strings.HasPrefix(r.URL.Path, "/admin/") {
		data = loginPage{Admin: true, Action: "/admin/login/", Next: localPath(next, "/admin/")}
		title = "Admin log-in"
	}
	v := h.view(r, title, nil)
	v.Data = data
	return v
}

// localPath returns the path when it leads to a page of this site, else the other one: a link to the log-in must not be able
// to send people elsewhere.
func localPath(path, otherwise string) string {
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !clean(u.Path) || strings.ContainsAny(path, "\\\r\n\t") {
		return otherwise
	}
	return u.EscapedPath()
}

func (h *handler) loginForm(w http.ResponseWriter, r *http.Request) {
	h.render(w, r, http.StatusOK, "login", h.loginView(r, r.URL.Query().Get("next")))
}

func (h *handler) loginSubmit(w http.ResponseWriter, r *http.Request) {
	if err := readForm(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	v := h.loginView(r, r.PostForm.Get("next"))
	data := v.Data.(loginPage)
	u, err := h.authenticate(r, r.PostForm.Get("username"), r.PostForm.Get("password"))
	if err == nil && data.Admin && !u.Staff {
		err = &problem{Status: http.StatusForbidden, Message: "This account has no access to the admin."}
	}
	if err == nil {
		err = h.logIn(w, r, u)
	}
	if err != nil {
		explain(err).setHeaders(w)
		h.again(w, r, err, "login", v, "username")
		return
	}
	h.redirect(w, r, data.Next, "loggedin")
}

func (h *handler) logout(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(h.cookieName(r, sessionCookie)); err == nil {
		if err := h.store.EndSignIn(r.Context(), Session, cookie.Value); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	h.setCookie(w, r, sessionCookie, "", time.Time{})
	h.redirect(w, r, "/polls/", "bye")
}

func (h *handler) signUpForm(w http.ResponseWriter, r *http.Request) {
	v := h.view(r, "Sign up", nil)
	v.Data = localPath(r.URL.Query().Get("next"), "/polls/")
	h.render(w, r, http.StatusOK, "signup", v)
}

func (h *handler) signUpSubmit(w http.ResponseWriter, r *http.Request) {
	if err := readForm(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	next := localPath(r.PostForm.Get("next"), "/polls/")
	u, err := h.signUp(r, NewUser{
		Username: r.PostForm.Get("username"), Email: r.PostForm.Get("email"), Password: r.PostForm.Get("password"),
	})
	if err == nil {
		err = h.logIn(w, r, u)
	}
	if err != nil {
		v := h.view(r, "Sign up", nil)
		v.Data = next
		explain(err).setHeaders(w)
		h.again(w, r, err, "signup", v, "username", "email")
		return
	}
	h.redirect(w, r, next, "welcome")
}
