// Package page is the look that the application's pages have in common: the frame around them, the stylesheet, forms with
// their errors, and the headers that keep a browser from doing what no page asks for. Nothing in it needs JavaScript.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed frame.html static/app.css static/icon.svg
var files embed.FS

// assets are the static files with the tag of what is in them, which their URLs carry: they may be cached for ever.
var assets = loadAssets()

type asset struct {
	tag, contentType string
	data             []byte
}

func loadAssets() map[string]asset {
	all := map[string]asset{}
	for name, contentType := range map[string]string{
		"app.css":  "text/css; charset=utf-8",
		"icon.svg": "image/svg+xml",
	} {
		data, err := files.ReadFile("static/" + name)
		if err != nil {
			panic(err) // The names are constants that the compiler has embedded.
		}
		sum := sha256.Sum256(data)
		all[name] = asset{tag: hex.EncodeToString(sum[:6]), contentType: contentType, data: data}
	}
	return all
}

// AssetPath is where a static file ("app.css") is found: a path for [Static], with its tag.
func AssetPath(name string) string { return "/static/" + name + "?v=" + assets[name].tag }

// Static serves the static files under "/static/".
func Static() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := assets[strings.TrimPrefix(r.URL.Path, "/static/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", a.contentType)
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("ETag", `"`+a.tag+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.data))
	})
}

// Set is a number of pages, each in the frame.
type Set map[string]*template.Template

// Parse reads the pages: each file in dir of fsys is one, and defines "content"; the files whose names begin with an
// underscore are parts of all of them, and define "nav" and "footer". It panics when one is malformed: they are compiled in.
func Parse(fsys fs.FS, dir string) Set {
	base := template.Must(template.New("frame.html").Funcs(functions).ParseFS(files, "frame.html"))
	base = template.Must(base.ParseFS(fsys, path.Join(dir, "_*.html")))
	names, err := fs.Glob(fsys, path.Join(dir, "[^_]*.html"))
	if err != nil {
		panic(err)
	}
	set := Set{}
	for _, name := range names {
		set[strings.TrimSuffix(path.Base(name), ".html")] = template.Must(template.Must(base.Clone()).ParseFS(fsys, name))
	}
	return set
}

// Frame is what the frame around a page shows. Pages embed it in the value that they are rendered with.
type Frame struct {
	Title  string
	Site   string // whose pages these are
	Notice string // what has just happened, if anything
	// Link turns a path of the application into the URL under which the browser finds it.
	Link func(path string) string
}

// URL is Link, for templates.
func (f Frame) URL(path string) string { return f.Link(path) }

// Asset is the URL of a static file.
func (f Frame) Asset(name string) string { return f.Link(AssetPath(name)) }

// Hue picks one of the stylesheet's colours by the site's name, so that two sites are told apart at a glance.
func (f Frame) Hue() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(f.Site))
	return h.Sum32() % 8
}

// Render writes the page with that name. Nothing is written when it fails, which only a fault in a template makes it do.
func (s Set) Render(w http.ResponseWriter, status int, name string, view any) error {
	var buf bytes.Buffer
	t, ok := s[name]
	if !ok {
		return fmt.Errorf("page: there is no page %q", name)
	}
	if err := t.ExecuteTemplate(&buf, "frame", view); err != nil {
		return fmt.Errorf("page: render %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = buf.WriteTo(w) // An error means that the browser is gone.
	return nil
}

// Protect adds the headers that all answers carry. formTargets are the origins that a form may lead to besides the page's
// own, as Content-Security-Policy writes them: a browser holds the redirect after a form against that list, too.
func Protect(next http.Handler, formTargets ...string) http.Handler {
	policy := "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action " +
		strings.Join(append([]string{"'self'"}, formTargets...), " ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// A Form is what somebody entered and what is wrong with it, by field.
type Form struct {
	Values  map[string]string
	Errors  map[string]string
	Problem string // what is wrong with the whole
}

// Field is one input of a form, for the template "field".
type Field struct {
	Name, Label, Type, Value, Error, Hint, Autocomplete string
	Optional                                            bool
	MaxLength                                           int
}

var functions = template.FuncMap{
	// field NAME LABEL TYPE of a form; the others are added by with….
	"field": func(form Form, name, label, kind string) Field {
		f := Field{Name: name, Label: label, Type: kind, Error: form.Errors[name]}
		if kind != "password" { // A password is never sent back.
			f.Value = form.Values[name]
		}
		return f
	},
	"hint":         func(hint string, f Field) Field { f.Hint = hint; return f },
	"autocomplete": func(how string, f Field) Field { f.Autocomplete = how; return f },
	"maxlength":    func(n int, f Field) Field { f.MaxLength = n; return f },
	"optional":     func(f Field) Field { f.Optional = true; return f },

	"add": func(a, b int) int { return a + b },

	"count": func(n int64, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		digits := strconv.FormatInt(n, 10)
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		return digits + " " + many
	},
	"day":     func(t time.Time) string { return t.Format("2 January 2006") },
	"instant": func(t time.Time) string { return t.Format(time.RFC3339) },
}
