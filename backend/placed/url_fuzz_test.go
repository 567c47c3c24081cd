package placed

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// S12: a URL is read as it was written, in its order, or refused; no error shows more of it than names that could be a
// place's.
func FuzzParseURL(f *testing.F) {
	for _, text := range []string{
		"home=sqlite%3Adata&eu=postgres%3A%2F%2Fme%3AS3CRET%40h%2Fapp", "postgres://me:S3CRET@h/app", "postgres://me:S3CRET@h/app?x=y", "home=%zzS3CRET",
		"S3CRET%=%", "home=a&home=S3CRET", "=S3CRET", "home=S3CRET&=", "home", "", "&&", "home=S3CRET;eu=b",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := parseURL("placed:?" + text)
		if err == nil {
			err = cfg.check()
		}
		if err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			require.NotContains(t, err.Error(), "S3CRET") // which no place can be called
			return
		}
		pairs := []string{}
		for _, p := range cfg.Places {
			require.Nil(t, p.Backend)
			require.NotEmpty(t, p.URL)
			backend.MustParseStore(p.Name)
			pairs = append(pairs, p.Name+"="+url.QueryEscape(p.URL))
		}
		again, err := parseURL("placed:?" + strings.Join(pairs, "&"))
		require.NoError(t, err)
		require.Equal(t, cfg, again)
	})
}
