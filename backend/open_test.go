package backend_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestOpen(t *testing.T) {
	reached := errors.New("reached")
	var got string
	open := func(_ context.Context, url string) (backend.Backend, error) {
		got = url
		return nil, reached
	}
	backend.Register("test-scheme", open)
	backend.Register("postgres", open)

	for url, why := range map[string]string{
		"":                            "empty",
		"data":                        "no scheme",
		"mysql://app:hunter2@host/db": `"mysql"`,
		":x":                          `""`,
	} {
		_, err := backend.Open(t.Context(), url)
		require.ErrorIs(t, err, backend.ErrInvalidURL, url)
		assert.Contains(t, err.Error(), why, url)
		assert.NotContains(t, err.Error(), "hunter2", "a password does not belong into an error")
	}
	_, err := backend.Open(t.Context(), "mysql://host")
	assert.ErrorContains(t, err, "test-scheme", "the error says which schemes there are")

	for _, url := range []string{
		"test-scheme:x", "postgres://user@host/db", "host=localhost dbname=app", "dbname=app password=a:b", "host=::1 dbname=app",
	} {
		got = ""
		_, err := backend.Open(t.Context(), url)
		require.ErrorIs(t, err, reached, url)
		assert.Equal(t, url, got)
	}

	assert.Panics(t, func() { backend.Register("test-scheme", open) }, "a scheme is registered once")
	assert.Panics(t, func() { backend.Register("nil", nil) })
}
