package tenancy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// Key returns a key for a cache that all tenants share: parts, preceded by the ID of the tenant that ctx is in. Two keys
// are the same only when tenant and parts are. Since IDs are never reused, a new tenant never finds what an earlier one
// of its name left behind. It returns ErrNoTenant when ctx is in no tenant.
func Key(ctx context.Context, parts ...string) (string, error) {
	t, ok := From(ctx)
	if !ok {
		return "", fmt.Errorf("tenement: key: %w", ErrNoTenant)
	}
	n := len(t.ID)
	for _, p := range parts {
		n += 1 + len(p)
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString(string(t.ID))
	for _, p := range parts {
		b.WriteByte(':')
		// Escaped, so that ("a:b") and ("a", "b") are two keys.
		if strings.ContainsAny(p, `:\`) {
			p = keyEscaper.Replace(p)
		}
		b.WriteString(p)
	}
	return b.String(), nil
}

var keyEscaper = strings.NewReplacer(`\`, `\\`, `:`, `\:`)

// NewLogHandler returns a handler that adds the tenant of a record's context, as the attributes "tenant" (the slug) and
// "tenant_id", and hands the record on to h. They stand at the top level, also under a logger with groups. Records
// whose context is in no tenant are handed on as they are.
func NewLogHandler(h slog.Handler) slog.Handler { return &logHandler{top: h, inner: h} }

// logHandler keeps two forms of the same thing: inner is what records without a tenant go to. Once a group was opened
// nothing can be added at the top of inner any more, so top stays as it was before, and after is what came since.
type logHandler struct {
	top, inner slog.Handler
	after      []func(slog.Handler) slog.Handler
}

func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	t, ok := From(ctx)
	if !ok {
		return h.inner.Handle(ctx, r)
	}
	attrs := []slog.Attr{slog.String("tenant", t.Slug), slog.String("tenant_id", string(t.ID))}
	if len(h.after) == 0 {
		r = r.Clone()
		r.AddAttrs(attrs...)
		return h.inner.Handle(ctx, r)
	}
	to := h.top.WithAttrs(attrs)
	for _, f := range h.after {
		to = f(to)
	}
	return to.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	next := &logHandler{top: h.top, inner: h.inner.WithAttrs(attrs)}
	if len(h.after) == 0 {
		next.top = next.inner
		return next
	}
	next.after = append(h.after[:len(h.after):len(h.after)], func(s slog.Handler) slog.Handler { return s.WithAttrs(attrs) })
	return next
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &logHandler{
		top:   h.top,
		inner: h.inner.WithGroup(name),
		after: append(h.after[:len(h.after):len(h.after)], func(s slog.Handler) slog.Handler { return s.WithGroup(name) }),
	}
}
