package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// A URL is read, or refused as one, without the password that is in it: however that is spelt, escaped or not.
func FuzzParseURL(f *testing.F) {
	forms := []string{"postgres://me:", "postgresql://me:", "host=h password=", "host=h password='", "user=me password = '"}
	for _, c := range []struct {
		form               uint8
		left, right, after string
	}{
		{0, "", "", "localhost:5432/app?reset=off&first_sights=3"},
		{0, "%", "", "localhost:port/app"},
		{1, "", "/", "localhost/app"},
		{0, "x'", "/", "localhost/app"},
		{0, "[", "]", "h/app"},
		{1, "#", "?", "h/app?tenant_role=none"},
		{0, "a:", "/b", "h"},
		{2, "", "", "tenant_role=pg_x"},
		{3, "", "", "x"},
		{4, "", "", "pool_max_conns=x"},
		{0, "", "", "h/app?affinity_wait=-1s&replica=postgres%3A%2F%2Fh&replica=postgres%3A%2F%2Fi"},
	} {
		f.Add(c.form, c.left, c.right, c.after)
	}
	const secret = "S3CRET"
	f.Fuzz(func(t *testing.T, form uint8, left, right, after string) {
		before, not := forms[int(form)%len(forms)], "=&@"
		switch {
		case strings.HasSuffix(before, "'"):
			not, after = "='\\", "' "+after
		case strings.HasSuffix(before, "="):
			not, after = "='\\ \t\r\n\v\f", " "+after
		default:
			after = "@" + after
		}
		if strings.ContainsAny(left+right, not) {
			t.Skip("it is not known to be the password")
		}
		var cfg Config
		pc, err := parsePool(before+left+secret+right+after, &cfg)
		if err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			require.NotContains(t, err.Error(), secret)
			return
		}
		require.Positive(t, pc.MaxConns)
		for _, own := range []string{"tenant_role", "reset", "replica", "tenant_statements", "first_sights", "affinity_wait"} {
			require.NotContains(t, pc.ConnConfig.RuntimeParams, own)
		}
		if cfg, err = cfg.withDefaults(); err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			return
		}
		require.Positive(t, cfg.FirstSights)
		require.GreaterOrEqual(t, cfg.TenantStatements, 0)
		require.GreaterOrEqual(t, cfg.AffinityWait, time.Duration(0))
	})
}
